"""What codes tell of the ego's motion."""

import numpy as np

from cache_schema.vocabulary.driving import ACCELERATION, YAW_RATE
from student.latentvla.code_probe import LARGEST, probe_codes

CLIP_OF = np.repeat([0, 1], 50)


def turning():
    """Codes of a student and a teacher, and signals of which the second code of the student decides one."""
    rng = np.random.default_rng(0)
    codes = {who: rng.integers(4, size=(100, 3)) for who in ("student", "teacher")}
    can_bus = np.zeros((100, 18))
    can_bus[:, YAW_RATE] = np.array([0.1, -0.4, 0.2, 0.6])[codes["student"][:, 1]]
    can_bus[:, ACCELERATION[0]] = rng.normal(size=100)
    return codes, can_bus


def test_the_codes_that_decide_a_quantity_tell_it():
    codes, can_bus = turning()
    found = probe_codes(codes, can_bus, CLIP_OF)
    assert not found.missing
    r2 = {name: of.value for name, of in found.measures.items()}
    assert r2["r2_yaw_rate_student_codes"] > 0.95
    for name in ("r2_yaw_rate_teacher_codes", "r2_yaw_rate_constant", "r2_acceleration_student_codes"):
        assert r2[name] < 0.1, name
    assert len(r2) == 6
    np.testing.assert_array_equal(found.arrays["driven.yaw_rate"], can_bus[:, YAW_RATE].astype(np.float32))


def test_what_cannot_be_measured_is_named():
    codes, can_bus = turning()
    one_clip = probe_codes(codes, can_bus, np.zeros(100, dtype=int))
    assert not one_clip.measures
    assert "of one clip" in one_clip.missing[0]
    can_bus[:, YAW_RATE] = 0.2
    straight = probe_codes(codes, can_bus, CLIP_OF)
    assert "the yaw rate was not measured" in straight.missing[0]
    assert {name.split("_")[1] for name in straight.measures} == {"acceleration"}
    codes["teacher"][0, 0] = LARGEST
    many = probe_codes(codes, can_bus, CLIP_OF)
    assert "teacher's codes tell was not measured: there are too many" in many.missing[1]
    assert set(many.measures) == {"r2_acceleration_student_codes", "r2_acceleration_constant"}
    can_bus[:, ACCELERATION[0]] = 0
    assert not probe_codes(codes, can_bus, CLIP_OF).measures

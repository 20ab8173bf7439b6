"""Layer groups, against the recorded set."""

import json

import pytest

from cache_schema.errors import RequestError
from pipeline.teachers.internvl3.windows import groups
from tests.pipeline.teachers.internvl3.conftest import RECORDED

CASES = json.loads((RECORDED / "layer_groups.json").read_text())


def test_recorded_groups():
    for case in CASES:
        given = [case[name] for name in ("student_layers", "teacher_layers", "start", "end")]
        if "error" in case:
            with pytest.raises(RequestError, match="layers") as refused:
                groups(*given)
            assert refused.value.repair
        else:
            assert [list(group) for group in groups(*given)] == case["groups"], given


def test_some_recorded_ranges_are_empty():
    assert any("error" in case for case in CASES)


@pytest.mark.parametrize(("start", "end"), [(2, 1), (0, 5), (-6, -2), (5, 5), (0, -6)])
def test_no_such_layers(start, end):
    with pytest.raises(RequestError, match="of the student's 5 layers"):
        groups(5, 9, start, end)


@pytest.mark.parametrize(
    ("teacher", "student", "length"), [(28, 24, 5), (48, 24, 25), (64, 24, 41), (28, 28, 1)]
)
def test_published_lengths(teacher, student, length):
    found = groups(student, teacher)
    assert {group.last - group.first + 1 for group in found} == {length}
    assert (len(found), found[-1].last) == (student - 1, teacher - 2)

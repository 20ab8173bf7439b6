import pytest
from pydantic import ValidationError

from cache_schema.format.features import FeatureSpec
from cache_schema.vocabulary.driving import GROUND_TRUTH


def spec(**changes) -> FeatureSpec:
    return FeatureSpec(
        **({"name": "x", "shape": (2, 3), "axes": ("a", "b"), "dtype": "float16", "role": "input"} | changes)
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"axes": ("a",)},
        {"shape": (0, 3)},
        {"dtype": "float8"},
        {"name": "../escape"},
        {"segments": (("scene", 1), ("map", 2))},
        {"colour": "blue"},
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(changes):
    with pytest.raises(ValidationError):
        spec(**changes)


def test_bytes_of_a_frame():
    assert spec().nbytes == 12
    assert spec(shape=(), axes=(), dtype="float64").nbytes == 8


def test_ground_truth_of_a_driving_dataset():
    assert {s.name: (s.shape, s.dtype) for s in GROUND_TRUTH} == {
        "ego_trajectory": ((6, 2), "float32"),
        "ego_trajectory_mask": ((6,), "bool"),
        "command": ((), "int8"),
        "timestamp": ((), "float64"),
        "frame_index": ((), "int32"),
        "ego_pose": ((4, 4), "float64"),
        "can_bus": ((18,), "float64"),
        "truth_agent_boxes": ((64, 5), "float32"),
        "truth_agent_classes": ((64,), "int8"),
        "truth_agent_offsets": ((64, 6, 3), "float32"),
        "truth_agent_offsets_mask": ((64, 6), "bool"),
        "truth_agent_count": ((), "int16"),
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": (None, 0)},
        {"shape": (None, 3), "segments": (("a", 1), ("b", 2))},
        {"shape": (None, 3), "encoding": "int8-per-channel"},
        {"shape": (2, 3), "encoding": "lower-triangle"},
        {"shape": (None, 3), "encoding": "lower-triangle"},
        {"shape": (3, None), "encoding": "lower-triangle"},
        {"shape": (None,), "axes": ("a",), "encoding": "lower-triangle"},
        {"shape": (None, 3), "dtype": "int32", "encoding": "bfloat16"},
    ],
)
def test_a_ragged_spec_that_makes_no_sense_is_refused(changes):
    with pytest.raises(ValidationError):
        spec(**changes)


def test_a_ragged_feature_has_no_fixed_size():
    ragged = spec(shape=(None, 3))
    assert (ragged.ragged, spec().ragged) == (True, False)
    assert spec().fixed_shape == (2, 3)
    for read in (lambda: ragged.nbytes, lambda: ragged.fixed_shape):
        with pytest.raises(ValueError, match="x differs in shape from frame to frame"):
            read()
    assert spec(shape=(None, None), encoding="lower-triangle").ragged
    assert spec(shape=(3, 3), encoding="lower-triangle").nbytes == 18

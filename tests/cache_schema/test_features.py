import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from cache_schema.features import TRUTH, FeatureSpec
from cache_schema.layout import PAGE_BYTES, SHARD_BYTES, fill_value_of, layout_of


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


def test_truth_is_what_a_driving_dataset_needs():
    assert {s.name: (s.shape, s.dtype) for s in TRUTH} == {
        "ego_trajectory": ((6, 2), "float32"),
        "ego_trajectory_mask": ((6,), "bool"),
        "command": ((), "int8"),
        "timestamp": ((), "float64"),
        "frame_index": ((), "int32"),
        "ego_pose": ((4, 4), "float64"),
        "can_bus": ((18,), "float64"),
    }


@given(rows=st.integers(1, 600), columns=st.integers(1, 4096), frames=st.integers(1, 3000))
def test_layout(rows: int, columns: int, frames: int):
    feature = spec(shape=(rows, columns))
    layout = layout_of(feature, frames)
    assert layout.chunks[1:] == feature.shape
    if feature.nbytes < PAGE_BYTES:
        assert layout == ((frames, rows, columns), None)
        return
    assert layout.chunks[0] == 1
    assert layout.shards is not None
    assert 1 <= layout.shards[0] <= frames
    # As many frames as fit, and never more bytes than the cap.
    assert layout.shards[0] * feature.nbytes <= SHARD_BYTES
    assert layout.shards[0] == frames or (layout.shards[0] + 1) * feature.nbytes > SHARD_BYTES


def test_fill_values_show_what_was_never_written():
    assert np.isnan(fill_value_of(spec()))
    assert fill_value_of(spec(dtype="int8")) == 0
    assert fill_value_of(spec(dtype="bool")) is False

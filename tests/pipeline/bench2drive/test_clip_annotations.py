"""The annotations of whole clips."""

import numpy as np
import pytest

from cache_schema.errors import ClipError
from cache_schema.vocabulary.driving import GROUND_TRUTH
from pipeline.bench2drive.clip_annotations import read_annotations


@pytest.fixture
def clip(write_clip, frame_record):
    """Seven frames along the world's x axis at 10 m/s, heading along it."""
    return write_clip(
        [frame_record((100.0 + frame, 50.0, 0.0), yaw=0.0, command_near=1 + frame % 6) for frame in range(7)]
    )


def test_arrays(clip):
    annotations = read_annotations(clip)
    assert annotations.frame_index.tolist() == list(range(7))
    assert annotations.timestamp_s.tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert annotations.command.tolist() == [0, 1, 2, 3, 4, 5, 0]
    assert (annotations.frame_index.dtype, annotations.command.dtype) == (np.int32, np.int64)
    # The LiDAR sits 0.39 m behind and 1.84 m above the actor; its y axis points along the world's x.
    np.testing.assert_allclose(annotations.ego_pose[2, :3, 3], (101.61, -50, 1.84), atol=1e-9)
    np.testing.assert_allclose(annotations.ego_pose[2, :3, 1], (1, 0, 0), atol=1e-12)
    product = annotations.ego_pose_inv @ annotations.ego_pose
    np.testing.assert_allclose(product, np.broadcast_to(np.eye(4), (7, 4, 4)), atol=1e-12)
    assert annotations.can_bus.shape == (7, 18)


def test_ground_truth_is_as_promised(clip):
    truth = read_annotations(clip).ground_truth()
    assert set(truth) == {spec.name for spec in GROUND_TRUTH}
    for spec in GROUND_TRUTH:
        assert (truth[spec.name].shape, truth[spec.name].dtype) == ((7, *spec.shape), np.dtype(spec.dtype))
    # 1 m a frame, five frames a step; seven frames hold one step for the first two.
    np.testing.assert_allclose(truth["ego_trajectory"][0], [(0, 5)] + [(0, 0)] * 5, atol=1e-6)
    assert truth["ego_trajectory_mask"].sum(1).tolist() == [1, 1, 0, 0, 0, 0, 0]


def test_a_broken_annotation_names_the_file(clip):
    clip.annotation_path(4).write_bytes(b"{}")
    with pytest.raises(ClipError, match=r"00004.json.gz"):
        read_annotations(clip)

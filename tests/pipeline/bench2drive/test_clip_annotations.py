"""The annotations of whole clips."""

import numpy as np
import pytest

from cache_schema.errors import ClipError
from cache_schema.vocabulary.driving import GROUND_TRUTH
from pipeline.bench2drive.clip_annotations import read_annotations
from pipeline.bench2drive.source import Bench2Drive
from pipeline.bench2drive.synthetic import write_demo_data


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


@pytest.mark.parametrize(("hz", "fits"), [(2, False), (5, False), (8, True), (12, True), (20, False)])
def test_the_rate_of_a_recording_is_compared(write_clip, frame_record, hz, fits):
    """20 frames at 12 m/s, each 12 / hz metres after the one before."""
    speeds = [frame_record((100.0 + frame * 12 / hz, 50.0, 0.0), speed=12.0) for frame in range(20)]
    clip = write_clip(speeds)
    if fits:
        assert len(read_annotations(clip).frame_index) == 20
        return
    with pytest.raises(ClipError, match=rf"recorded at about {hz} Hz") as caught:
        read_annotations(clip)
    assert "10 Hz" in caught.value.expected


def test_too_short_a_way_tells_no_rate(write_clip, frame_record):
    """It stands, then starts: the speed is recorded one frame late."""
    speeds = [0.0] * 8 + [0.0, 1.0, 2.0, 3.0]
    ways = [0.0] * 8 + [0.1, 0.3, 0.6, 1.0]
    records = [
        frame_record((100.0 + way, 50.0, 0.0), speed=speed) for way, speed in zip(ways, speeds, strict=True)
    ]
    assert len(read_annotations(write_clip(records)).frame_index) == 12


def test_every_other_frame_of_a_recording_is_no_recording(tmp_path):
    (clip,) = write_demo_data(tmp_path / "data", clips=1, frames=24)
    for number in range(12):
        kept, dropped = (clip / f"anno/{frame:05d}.json.gz" for frame in (2 * number, 2 * number + 1))
        dropped.unlink()
        kept.rename(clip / f"anno/{number:05d}.json.gz")
    with pytest.raises(ClipError, match="about 5"):
        Bench2Drive(tmp_path / "data").select().clips[0].open()

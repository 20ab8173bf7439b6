"""Whole clips: what extraction is given."""

import numpy as np
import pytest

from cache_schema.errors import ClipError
from cache_schema.vocabulary.driving import GROUND_TRUTH
from pipeline.bench2drive.clips import find_clips
from pipeline.bench2drive.geometry import CAMERAS
from pipeline.bench2drive.reader import load_images, read_annotations
from pipeline.teachers.orion.images import ImagePreprocessing


@pytest.fixture
def clip(write_clip, frame_record):
    """Seven frames along the world's x axis at 10 m/s, heading along it."""
    return write_clip(
        [frame_record((100.0 + frame, 50.0, 0.0), yaw=0.0, command_near=1 + frame % 6) for frame in range(7)]
    )


def test_arrays(clip):
    annotations = read_annotations(clip)
    assert annotations.frame_index.tolist() == list(range(7))
    assert annotations.timestamp.tolist() == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert annotations.command.tolist() == [0, 1, 2, 3, 4, 5, 0]
    assert (annotations.frame_index.dtype, annotations.command.dtype) == (np.int32, np.int64)
    # The LiDAR sits 0.39 m behind and 1.84 m above the actor; its y axis points along the world's x.
    np.testing.assert_allclose(annotations.ego_pose[2, :3, 3], (101.61, -50, 1.84), atol=1e-9)
    np.testing.assert_allclose(annotations.ego_pose[2, :3, 1], (1, 0, 0), atol=1e-12)
    product = annotations.ego_pose_inv @ annotations.ego_pose
    np.testing.assert_allclose(product, np.broadcast_to(np.eye(4), (7, 4, 4)), atol=1e-12)
    assert annotations.can_bus.shape == (7, 18)


def test_lidar2img(clip):
    matrix = read_annotations(clip).lidar2img(ImagePreprocessing())
    assert (matrix.shape, matrix.dtype) == ((7, 6, 4, 4), np.float32)
    expected = [
        (457.0074, 320, 0, -380.80002),
        (0, 280, -914.0148, -552.56354),
        (0, 1, 0, -1.19),
        (0, 0, 0, 1),
    ]
    np.testing.assert_allclose(matrix[3, 0], expected, rtol=1e-6, atol=1e-4)


def test_truth_is_what_the_features_promise(clip):
    truth = read_annotations(clip).truth()
    assert set(truth) == {spec.name for spec in GROUND_TRUTH}
    for spec in GROUND_TRUTH:
        assert (truth[spec.name].shape, truth[spec.name].dtype) == ((7, *spec.shape), np.dtype(spec.dtype))
    # 1 m a frame, five frames a step; seven frames hold one step for the first two.
    np.testing.assert_allclose(truth["ego_trajectory"][0], [(0, 5)] + [(0, 0)] * 5, atol=1e-6)
    assert truth["ego_trajectory_mask"].sum(1).tolist() == [1, 1, 0, 0, 0, 0, 0]


def test_images_of_a_synthetic_clip(demo_root):
    clip = find_clips(demo_root).clips[0]
    images = ImagePreprocessing()
    six = load_images(clip, 1, images)
    assert (six.shape, six.dtype) == ((6, 3, 320, 640), np.uint8)
    for index, camera in enumerate(CAMERAS):
        np.testing.assert_array_equal(six[index], images.load(clip.image_path(camera, 1)))


def test_a_missing_image_names_the_file(clip):
    with pytest.raises(ClipError, match=r"rgb_front/00003\.jpg does not exist"):
        load_images(clip, 3, ImagePreprocessing())


def test_a_broken_annotation_names_the_file(clip):
    clip.annotation_path(4).write_bytes(b"{}")
    with pytest.raises(ClipError, match=r"00004.json.gz"):
        read_annotations(clip)

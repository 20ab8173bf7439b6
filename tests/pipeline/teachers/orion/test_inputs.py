"""Samples to batches: projections worked out by hand, images in their places, idle slots."""

import dataclasses
import shutil

import numpy as np
import pytest
import torch

from cache_schema.errors import ClipError
from pipeline.bench2drive.geometry import CAMERAS
from pipeline.bench2drive.jpeg import read_jpeg
from pipeline.bench2drive.source import Bench2Drive
from pipeline.teachers.orion.images import ImagePreprocessing
from pipeline.teachers.orion.inputs import collate, lidar2img, prepare

IMAGES = ImagePreprocessing()


@pytest.fixture(scope="module")
def clip(clips_root):
    return Bench2Drive(clips_root).select().clips[0].open()


def test_projection_of_the_front_camera(clip):
    sample = clip.sample(0)
    matrix = lidar2img(sample.lidar2cam, sample.intrinsic, IMAGES)
    assert (matrix.shape, matrix.dtype) == ((6, 4, 4), np.float32)
    expected = [
        (457.0074, 320, 0, -380.80002),
        (0, 280, -914.0148, -552.56354),
        (0, 1, 0, -1.19),
        (0, 0, 0, 1),
    ]
    np.testing.assert_allclose(matrix[0], expected, rtol=1e-6, atol=1e-4)


def test_a_frame_alone_is_projected_to_the_bits_of_all_frames_together(clip):
    arrays = clip.annotations
    together = lidar2img(arrays.lidar2cam, arrays.intrinsic, IMAGES)
    for index in range(len(arrays.frame_index)):
        sample = clip.sample(index)
        np.testing.assert_array_equal(lidar2img(sample.lidar2cam, sample.intrinsic, IMAGES), together[index])


def test_images_in_the_order_of_the_cameras(clip):
    sample = clip.sample(1)
    inputs = prepare(sample, IMAGES)
    assert (inputs.images.shape, inputs.images.dtype) == ((6, 3, 320, 640), np.uint8)
    assert list(sample.images) == list(CAMERAS)
    for image, path in zip(inputs.images, sample.images.values(), strict=True):
        np.testing.assert_array_equal(image, IMAGES.shrink(read_jpeg(path)))


def test_a_missing_image_names_the_file(clip, tmp_path):
    sample = clip.sample(3)
    gone = sample.images["CAM_BACK"]
    elsewhere = {**sample.images, "CAM_BACK": tmp_path / gone.name}
    with pytest.raises(ClipError, match=r"00003\.jpg does not exist"):
        prepare(dataclasses.replace(sample, images=elsewhere), IMAGES)
    shutil.copy(gone, tmp_path / gone.name)
    prepare(dataclasses.replace(sample, images=elsewhere), IMAGES)


def test_a_batch_has_one_row_a_slot(clip):
    rows = [prepare(clip.sample(index), IMAGES) for index in (2, 0)]
    batch = collate([rows[0], None, rows[1]], IMAGES)
    assert batch.clips == (rows[0].clip, "", rows[1].clip)
    assert batch.timestamp_s.tolist() == pytest.approx([0.2, 0.0, 0.0])
    assert batch.images[2].equal(torch.from_numpy(rows[1].images))
    types = {"images": torch.uint8, "command": torch.int64, "can_bus": torch.float64}
    for field in dataclasses.fields(batch)[1:]:
        tensor = getattr(batch, field.name)
        assert len(tensor) == 3
        is_time = field.name == "timestamp_s"
        assert tensor.dtype == types.get(field.name, torch.float64 if is_time else torch.float32)
    # An idle slot: black images, and matrices that can be inverted.
    assert not batch.images[1].any()
    assert batch.ego_pose[1].equal(torch.eye(4))
    assert batch.lidar2img[1].equal(torch.eye(4).expand(6, 4, 4))
    torch.testing.assert_close(batch.ego_pose[0], torch.from_numpy(rows[0].ego_pose).float())

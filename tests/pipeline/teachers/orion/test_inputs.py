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
from pipeline.teachers.orion.inputs import OrionBatch, collate, lidar2img, prepare
from pipeline.teachers.orion.presets import ORION_TINY_RANDOM

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
    assert (inputs.images.shape, inputs.images.dtype) == ((6, 3, 320, 640), torch.uint8)
    assert list(sample.images) == list(CAMERAS)
    for image, path in zip(inputs.images, sample.images.values(), strict=True):
        np.testing.assert_array_equal(image, IMAGES.shrink(read_jpeg(path)))


@pytest.mark.parametrize("shrink", [True, False])
def test_a_missing_image_names_the_file(clip, tmp_path, shrink):
    sample = clip.sample(3)
    gone = sample.images["CAM_BACK"]
    elsewhere = {**sample.images, "CAM_BACK": tmp_path / gone.name}
    with pytest.raises(ClipError, match=r"00003\.jpg does not exist"):
        prepare(dataclasses.replace(sample, images=elsewhere), IMAGES, shrink=shrink)
    shutil.copy(gone, tmp_path / gone.name)
    prepare(dataclasses.replace(sample, images=elsewhere), IMAGES, shrink=shrink)


def test_a_batch_has_one_row_a_slot(clip):
    rows = [prepare(clip.sample(index), IMAGES) for index in (2, 0)]
    batch = collate([rows[0], None, rows[1]], IMAGES)
    assert batch.clips == (rows[0].clip, "", rows[1].clip)
    assert batch.timestamp_s.tolist() == pytest.approx([0.2, 0.0, 0.0])
    assert batch.images[2].equal(rows[1].images)
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


@pytest.mark.parametrize(
    "device", [pytest.param("cpu"), pytest.param("cuda", marks=pytest.mark.gpu)], ids=["cpu", "gpu"]
)
@pytest.mark.parametrize("images", [IMAGES, ORION_TINY_RANDOM.images], ids=["released", "tiny"])
def test_a_batch_is_the_same_wherever_its_images_are_shrunk(clip, images, device):
    samples = [clip.sample(0), None, clip.sample(3)]

    def batch(shrink_on: torch.device | None) -> OrionBatch:
        shrink = shrink_on is None
        rows = [None if sample is None else prepare(sample, images, shrink=shrink) for sample in samples]
        return collate(rows, images, shrink_on=shrink_on)

    before, there = batch(None), batch(torch.device(device))
    assert there.images.device.type == device
    assert there.clips == before.clips
    for field in dataclasses.fields(before)[1:]:
        assert getattr(there, field.name).cpu().equal(getattr(before, field.name)), field.name


@pytest.mark.parametrize("shrink", [True, False])
def test_inputs_share_no_memory_with_their_sample_or_with_other_inputs(clip, shrink):
    """Which is why the worker need not copy them."""
    sample = clip.sample(1)
    first, second = (prepare(sample, IMAGES, shrink=shrink) for _ in range(2))
    for name in ("images", "lidar2img", "ego_pose", "ego_pose_inv", "can_bus"):
        ours = np.asarray(getattr(first, name))
        for other in (getattr(second, name), *(getattr(sample, name, None) for name in vars(sample))):
            if isinstance(other, np.ndarray | torch.Tensor):
                assert not np.shares_memory(ours, np.asarray(other)), name


@pytest.mark.gpu
def test_images_for_a_gpu_are_decoded_into_pinned_memory_that_is_used_again(clip):
    """None is allocated once as much as is in use has been."""
    device = torch.device("cuda")
    allocated = []
    for index in range(8):
        rows = [prepare(clip.sample(index), IMAGES, shrink=False)]
        assert rows[0].images.is_pinned()
        batch = collate(rows, IMAGES, shrink_on=device)
        assert batch.lidar2img.is_pinned()
        torch.cuda.synchronize()
        allocated.append(torch.cuda.host_memory_stats()["num_host_alloc"])
    assert allocated[-1] == allocated[2]

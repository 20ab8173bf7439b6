"""Preprocessing against a recorded image."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from pipeline.bench2drive.geometry import CAMERAS, LIDAR_TOP, cam2ego, lidar2ego, pinhole, rigid_inverse
from pipeline.teachers.orion.images import ImagePreprocessing
from pipeline.teachers.orion.presets import ORION_TINY_RANDOM
from pipeline.teachers.orion.resize import resize
from tests.paths import GOLDEN

IMAGES = ImagePreprocessing()


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "orion/preprocessing.safetensors")


@pytest.fixture(scope="module")
def shrunk():
    y, x, c = np.mgrid[:900, :1600, :3]
    bgr = (3 * x + 5 * y + 40 * c + 60 * ((x // 37 + y // 23) % 2)) % 256
    return IMAGES.shrink(Image.fromarray(bgr.astype(np.uint8)[..., ::-1].copy()))


def test_resize_and_crop(golden, shrunk):
    np.testing.assert_array_equal(shrunk[::-1].transpose(1, 2, 0), golden["after_pil_bgr"])


@pytest.mark.parametrize("preprocessing", [IMAGES, ORION_TINY_RANDOM.images], ids=["released", "tiny"])
def test_rows_that_are_dropped_change_nothing_by_not_being_made(preprocessing):
    noise = np.random.default_rng(0).integers(0, 256, (900, 1600, 3), dtype=np.uint8)
    whole = Image.fromarray(noise).resize(preprocessing.resized, Image.Resampling.BICUBIC)
    kept = np.asarray(whole)[preprocessing.crop_top :]
    shrunk = preprocessing.shrink(Image.fromarray(noise))
    np.testing.assert_array_equal(shrunk.transpose(1, 2, 0), kept)


def draw(kind: str) -> np.ndarray:
    """A camera image that is hard to resize: (900, 1600, 3) uint8."""
    y, x, c = np.mgrid[:900, :1600, :3]
    random = np.random.default_rng(0)
    drawn = {
        "smooth": 127 + 60 * np.sin(x / 90 + c) + 60 * np.cos(y / 70),
        "noise": random.integers(0, 256, (900, 1600, 3)),
        # Sums overshoot 0 and 255 on both sides of an edge.
        "edges": 255 * ((x // 7 + y // 5) % 2),
        "black and white": 255 * random.integers(0, 2, (900, 1600, 3)),
        "white": np.full((900, 1600, 3), 255),
    }
    return drawn[kind].astype(np.uint8)


@pytest.mark.parametrize(
    "device", [pytest.param("cpu"), pytest.param("cuda", marks=pytest.mark.gpu)], ids=["cpu", "gpu"]
)
@pytest.mark.parametrize("kind", ["smooth", "noise", "edges", "black and white", "white"])
@pytest.mark.parametrize("preprocessing", [IMAGES, ORION_TINY_RANDOM.images], ids=["released", "tiny"])
def test_a_device_shrinks_to_the_bits_of_pillow(preprocessing, kind, device):
    image = draw(kind)
    both = torch.from_numpy(np.stack([image, image[::-1, ::-1]])).to(device)
    shrunk = preprocessing.shrink_on_device(both)
    assert shrunk.is_contiguous()
    for ours, theirs in zip(shrunk.cpu().numpy(), (image, image[::-1, ::-1]), strict=True):
        np.testing.assert_array_equal(ours, preprocessing.shrink(Image.fromarray(theirs)))


@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((17, 9), (0, 0, 100, 60)),
        ((33, 20), (3, 5, 97, 58)),
        ((64, 31), (0, 13.3, 100, 60)),
        ((150, 90), (10, 20, 40, 38)),
    ],
)
def test_other_sizes_and_boxes(size, box):
    image = np.random.default_rng(1).integers(0, 256, (60, 100, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC, box))
    resized = resize(torch.from_numpy(image).movedim(-1, -3), size, box).movedim(-3, -1)
    np.testing.assert_array_equal(resized.numpy(), expected)


def test_stretch_and_normalise(golden, shrunk):
    final = IMAGES.normalise(torch.from_numpy(shrunk)).permute(1, 2, 0)
    assert final.shape == (640, 640, 3)
    np.testing.assert_allclose(final[::4, ::4].numpy(), golden["out_rgb_hwc_stride4"], atol=1e-6)
    np.testing.assert_allclose(final.double().sum((0, 1)).numpy(), golden["out_sum"], rtol=1e-6)


def test_normalise_keeps_leading_axes(shrunk):
    one = torch.from_numpy(shrunk)
    many = torch.stack([one, one.flip(-1)] * 3).unflatten(0, (3, 2))
    final = IMAGES.normalise(many)
    assert final.shape == (3, 2, 3, 640, 640)
    torch.testing.assert_close(final[2, 0], IMAGES.normalise(one))


def test_recorded_intrinsics(golden):
    intrinsic = IMAGES.intrinsic(pinhole(70))
    np.testing.assert_allclose(intrinsic, golden["cam_intrinsic"][:3, :3], rtol=1e-7)
    lidar2cam = rigid_inverse(cam2ego(CAMERAS["CAM_FRONT"].sensor2ego)) @ lidar2ego(LIDAR_TOP.sensor2ego)
    lidar2img = lidar2cam.copy()
    lidar2img[:3] = intrinsic @ lidar2cam[:3]
    np.testing.assert_allclose(lidar2img.astype(np.float32), golden["lidar2img_f32"], rtol=1e-7, atol=1e-5)


def test_intrinsics_of_both_lenses():
    both = IMAGES.intrinsic(np.stack([pinhole(70), pinhole(110)]))
    expected = [(457.00736, 914.01473, 320, 280), (224.0664, 448.1328, 320, 280)]
    np.testing.assert_allclose(both[:, [0, 1, 0, 1], [0, 1, 2, 2]], expected, atol=2e-5)


def test_a_point_lands_where_the_resized_image_shows_it():
    # Golden vector G2: raw pixel (628.97186, 497.32537) is (251.588744, 317.860296) of the network's image.
    pixel = IMAGES.intrinsic(np.eye(3)) @ (628.97186, 497.32537, 1)
    np.testing.assert_allclose(pixel, (251.588744, 317.860296, 1), atol=1e-4)

"""Preprocessing against a recorded image, and images that cannot be read."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from cache_schema.errors import ClipError
from pipeline.bench2drive.geometry import CAMERAS, LIDAR_TOP, cam2ego, lidar2ego, pinhole, rigid_inverse
from pipeline.teachers.orion import images
from pipeline.teachers.orion.images import ImagePreprocessing
from pipeline.teachers.orion.presets import ORION_TINY
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


@pytest.mark.parametrize("preprocessing", [IMAGES, ORION_TINY.images], ids=["released", "tiny"])
def test_rows_that_are_dropped_change_nothing_by_not_being_made(preprocessing):
    noise = np.random.default_rng(0).integers(0, 256, (900, 1600, 3), dtype=np.uint8)
    whole = Image.fromarray(noise).resize(preprocessing.resized, Image.Resampling.BICUBIC)
    kept = np.asarray(whole)[preprocessing.crop_top :]
    shrunk = preprocessing.shrink(Image.fromarray(noise))
    np.testing.assert_array_equal(shrunk.transpose(1, 2, 0), kept)


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


@pytest.fixture
def jpeg(tmp_path):
    path = tmp_path / "00000.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (900, 1600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, quality=20)
    return path


def test_a_whole_jpeg(jpeg):
    pixels = IMAGES.load(jpeg)
    assert (pixels.shape, pixels.dtype) == ((3, 320, 640), np.uint8)


def test_both_decoders_yield_the_same_pixels(jpeg, monkeypatch):
    assert images.simplejpeg is not None, "the tests need the extra `fast`"
    fast = IMAGES.load(jpeg)
    monkeypatch.setattr(images, "simplejpeg", None)
    np.testing.assert_array_equal(IMAGES.load(jpeg), fast)


def test_a_missing_jpeg(tmp_path):
    with pytest.raises(ClipError, match=r"00007.jpg does not exist"):
        IMAGES.load(tmp_path / "00007.jpg")


@pytest.mark.parametrize("decoder", ["simplejpeg", "pillow"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_jpeg(jpeg, share, decoder, monkeypatch):
    if decoder == "pillow":
        monkeypatch.setattr(images, "simplejpeg", None)
    data = jpeg.read_bytes()
    jpeg.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ClipError, match=r"00000.jpg cannot be decoded"):
        IMAGES.load(jpeg)


def test_a_jpeg_of_another_size(tmp_path):
    Image.new("RGB", (1600, 901)).save(tmp_path / "00000.jpg")
    with pytest.raises(ClipError, match="1600x901"):
        IMAGES.load(tmp_path / "00000.jpg")


def test_a_header_that_claims_an_absurd_size(jpeg):
    data = bytearray(jpeg.read_bytes())
    frame_header = data.index(b"\xff\xc0")
    data[frame_header + 5 : frame_header + 9] = b"\xff\xff\xff\xff"  # 65535 x 65535
    jpeg.write_bytes(data)
    with pytest.raises(ClipError, match=r"00000.jpg"):
        IMAGES.load(jpeg)

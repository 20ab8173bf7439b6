import shutil

import numpy as np
import pytest
from PIL import Image

from cache_schema.errors import ClipError
from pipeline.bench2drive.camera_images import READING_ORDER, camera_images


@pytest.fixture
def clip(clips_root):
    return sorted((clips_root / "v1").iterdir())[0]


@pytest.mark.parametrize("around", [True, False])
def test_six_images_as_one_looks_around(clips_root, clip, around):
    images = camera_images(clips_root if around else clips_root / "v1", clip.name, 2)
    assert tuple(images) == READING_ORDER
    assert {image.shape for image in images.values()} == {(270, 480, 3)}
    with Image.open(clip / "camera" / "rgb_back_left" / "00002.jpg") as image:
        image.thumbnail((480, 270))
        np.testing.assert_array_equal(images["CAM_BACK_LEFT"], np.asarray(image.convert("RGB")))


def test_an_image_that_is_missing_or_cut_is_named(clip, tmp_path):
    shutil.copytree(clip, tmp_path / clip.name)
    front = tmp_path / clip.name / "camera" / "rgb_front" / "00002.jpg"
    front.write_bytes(front.read_bytes()[:900])
    with pytest.raises(ClipError, match=r"rgb_front/00002\.jpg"):
        camera_images(tmp_path, clip.name, 2)
    with pytest.raises(ClipError, match=r"rgb_front_left/00099\.jpg"):
        camera_images(tmp_path, clip.name, 99)


def test_a_name_cannot_leave_the_folder(clips_root):
    with pytest.raises(ClipError, match="does not parse"):
        camera_images(clips_root / "v1", "../v1", 0)

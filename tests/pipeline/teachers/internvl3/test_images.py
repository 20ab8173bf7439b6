"""Pixel values against the recorded set, and images that cannot be read."""

import dataclasses
import threading

import pytest
import torch
from PIL import Image

from cache_schema.errors import ClipError
from pipeline.teachers.internvl3.images import IMAGES_KEPT, ImageReader, PixelRecipe
from tests.pipeline.teachers.internvl3.conftest import image_file


def test_recorded_pixels(recorded):
    recipe = PixelRecipe(recorded.meta["image_size"])
    compared = 0
    for sample in recorded.meta["samples"]:
        if (wanted := recorded.inputs.get(f"{sample['key']}.pixel_values")) is not None:
            pixels = ImageReader(recipe).read(recorded.sample(sample).images)
            assert pixels.dtype == torch.uint8
            assert torch.equal(recipe.normalise(pixels), wanted)
            compared += 1
    assert compared


@pytest.fixture
def picture(tmp_path):
    Image.effect_noise((40, 30), 80).convert("RGB").save(tmp_path / "picture.png")
    return image_file(tmp_path, "picture.png")


def test_an_image_is_read_once_by_however_many_threads(picture, monkeypatch):
    read = []
    resize = PixelRecipe.resize
    monkeypatch.setattr(PixelRecipe, "resize", lambda *given: read.append(given) or resize(*given))
    reader, found = ImageReader(PixelRecipe(8)), []
    threads = [threading.Thread(target=lambda: found.append(reader.read((picture,) * 2))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read) == 1
    assert len(found) == 4
    assert all(torch.equal(pixels, found[0]) for pixels in found)


def test_few_images_are_kept(tmp_path):
    reader = ImageReader(PixelRecipe(2))
    for number in range(IMAGES_KEPT + 5):
        Image.new("RGB", (2, 2), (number, 0, 0)).save(tmp_path / f"{number}.png")
        reader.read((image_file(tmp_path, f"{number}.png"),))
    assert len(reader._kept) == IMAGES_KEPT


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda image: image.file.unlink(), "cannot be read"),
        (lambda image: image.file.write_bytes(image.file.read_bytes() + b"x"), "changed"),
    ],
)
def test_an_image_that_is_gone_or_changed_is_refused(picture, damage, message):
    damage(picture)
    with pytest.raises(ClipError, match=message) as refused:
        ImageReader(PixelRecipe(8)).read((picture,))
    assert str(picture.file) in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_a_broken_image_is_refused_every_time(picture, content, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(picture.file.read_bytes()[:-200] if content is None else content)
    reader = ImageReader(PixelRecipe(8))
    for _ in range(2):
        with pytest.raises(ClipError, match="is broken"):
            reader.read((image_file(tmp_path, "broken.png"),))
    assert reader.read((picture,)).shape == (1, 8, 8, 3)


def test_the_same_picture_under_another_name_is_the_same(picture, tmp_path):
    reader = ImageReader(PixelRecipe(8))
    first = reader.read((picture,))
    moved = dataclasses.replace(picture, file=tmp_path / "gone.png")
    assert torch.equal(reader.read((moved,)), first)

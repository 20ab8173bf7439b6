"""Camera images, and files that cannot be read as such."""

import io

import numpy as np
import pytest
from PIL import Image

from cache_schema.errors import ClipError
from pipeline.bench2drive import jpeg as jpegs
from pipeline.bench2drive.jpeg import read_jpeg, read_jpeg_into


@pytest.fixture
def jpeg(tmp_path):
    path = tmp_path / "00000.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (900, 1600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, quality=20)
    return path


def test_a_whole_jpeg(jpeg):
    image = read_jpeg(jpeg)
    assert (image.size, image.mode) == ((1600, 900), "RGB")


def test_both_decoders_yield_the_same_pixels(jpeg, monkeypatch):
    assert jpegs.simplejpeg is not None, "the tests need the extra `fast`"
    fast = read_jpeg(jpeg)
    monkeypatch.setattr(jpegs, "simplejpeg", None)
    np.testing.assert_array_equal(np.asarray(read_jpeg(jpeg)), np.asarray(fast))


@pytest.mark.parametrize("decoder", ["simplejpeg", "pillow"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_decoding_into_an_array(jpeg, decoder, mode, monkeypatch):
    Image.open(jpeg).convert(mode).save(jpeg)
    expected = np.asarray(read_jpeg(jpeg))
    if decoder == "pillow":
        monkeypatch.setattr(jpegs, "simplejpeg", None)
    frame = np.zeros((3, 900, 1600, 3), np.uint8)
    read_jpeg_into(frame[1], jpeg)
    np.testing.assert_array_equal(frame[1], expected)
    assert not frame[[0, 2]].any()


def into_an_array(path):
    read_jpeg_into(np.empty((900, 1600, 3), np.uint8), path)


def test_a_missing_jpeg(tmp_path):
    with pytest.raises(ClipError, match=r"00007.jpg does not exist"):
        read_jpeg(tmp_path / "00007.jpg")


@pytest.mark.parametrize("read", [read_jpeg, into_an_array])
@pytest.mark.parametrize("decoder", ["simplejpeg", "pillow"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_jpeg(jpeg, share, decoder, read, monkeypatch):
    if decoder == "pillow":
        monkeypatch.setattr(jpegs, "simplejpeg", None)
    data = jpeg.read_bytes()
    jpeg.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ClipError, match=r"00000.jpg cannot be decoded"):
        read(jpeg)


def test_a_jpeg_of_another_size(tmp_path):
    Image.new("RGB", (1600, 901)).save(tmp_path / "00000.jpg")
    with pytest.raises(ClipError, match="1600x901"):
        read_jpeg(tmp_path / "00000.jpg")


def test_a_header_that_claims_an_absurd_size(jpeg):
    data = bytearray(jpeg.read_bytes())
    frame_header = data.index(b"\xff\xc0")
    data[frame_header + 5 : frame_header + 9] = b"\xff\xff\xff\xff"  # 65535 x 65535
    jpeg.write_bytes(data)
    with pytest.raises(ClipError, match=r"00000.jpg"):
        read_jpeg(jpeg)


@pytest.mark.parametrize("decoder", ["simplejpeg", "pillow"])
def test_a_jpeg_that_is_sent_is_read_as_one_in_a_file(jpeg, decoder, monkeypatch):
    if decoder == "pillow":
        monkeypatch.setattr(jpegs, "simplejpeg", None)
    content = jpeg.read_bytes()
    np.testing.assert_array_equal(np.asarray(read_jpeg(content)), np.asarray(read_jpeg(jpeg)))
    frame = np.zeros((900, 1600, 3), np.uint8)
    read_jpeg_into(frame, content)
    np.testing.assert_array_equal(frame, np.asarray(read_jpeg(jpeg)))
    with pytest.raises(ClipError, match=f"a camera image of {len(content) // 2:,} bytes cannot be decoded"):
        read_jpeg(content[: len(content) // 2])


def test_only_jpegs_are_decoded_whatever_else_pillow_knows(monkeypatch):
    monkeypatch.setattr(jpegs, "simplejpeg", None)
    for kind in ("PNG", "TIFF", "EPS"):
        written = io.BytesIO()
        Image.new("RGB", (1600, 900)).save(written, kind)
        with pytest.raises(ClipError, match="cannot be decoded"):
            read_jpeg(written.getvalue())

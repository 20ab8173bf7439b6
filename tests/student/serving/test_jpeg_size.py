import io

import pytest
from PIL import Image

from student.serving.messages import MessageError, jpeg_size
from tests.student.serving.simulator import jpeg


@pytest.mark.parametrize("size", [(1600, 900), (900, 1600), (1, 1), (65500, 2), (257, 256)])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_the_size_of_a_jpeg(size, subsampling):
    assert jpeg_size(jpeg(size=size, subsampling=subsampling)) == size
    assert jpeg_size(jpeg(b"\xff\xc0" * 100, size=size)) == size


def test_other_jpegs_are_refused():
    with pytest.raises(MessageError, match="no baseline"):
        jpeg_size(jpeg(progressive=True))
    for mode in ("L", "CMYK"):
        encoded = io.BytesIO()
        Image.new(mode, (1600, 900)).save(encoded, "JPEG")
        with pytest.raises(MessageError, match="no baseline"):
            jpeg_size(encoded.getvalue())


def test_what_is_no_jpeg_is_refused():
    whole = jpeg(b"note")
    frame = whole.index(b"\xff\xc0\x00\x11")
    for length in range(frame + 10):
        with pytest.raises(MessageError, match="no baseline"):
            jpeg_size(whole[:length])
    for content in (b"\x89PNG\r\n\x1a\n" + whole, b"\xff\xd8" + b"\xff\xe0\x00\x00" * 9, b"\xff" * 1000):
        with pytest.raises(MessageError, match="no baseline"):
            jpeg_size(content)

"""Camera images as Bench2Drive stores them: JPEGs of 1600x900, in files or as a vehicle sends them."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from cache_schema.errors import ClipError
from pipeline.bench2drive.geometry import IMAGE_HEIGHT, IMAGE_WIDTH

try:
    import simplejpeg
except ImportError:  # an extra: `pip install teachonce[fast]`
    simplejpeg = None

if TYPE_CHECKING:
    from collections.abc import Generator

Jpeg = Path | bytes
"""A file, or its content."""
CAMERA_SIZE = (IMAGE_WIDTH, IMAGE_HEIGHT)
"""Width and height of every camera image."""
UNDECODABLE = (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError)
"""Raised by the decoders for a file that is not a whole JPEG, besides OSError."""


def jpeg_bytes(jpeg: Jpeg) -> bytes:
    """Return the content of a camera image."""
    return jpeg if isinstance(jpeg, bytes) else jpeg.read_bytes()


def read_jpeg(jpeg: Jpeg) -> Image.Image:
    """Read and decode one camera image, RGB.

    Raises:
        ClipError: The file is missing, not a whole JPEG, or not 1600x900.
    """
    pixels = np.empty((IMAGE_HEIGHT, IMAGE_WIDTH, 3), dtype=np.uint8)
    read_jpeg_into(pixels, jpeg)
    return Image.fromarray(pixels)


def read_jpeg_into(pixels: np.ndarray, jpeg: Jpeg) -> None:
    """Read one camera image and decode it, RGB, into an array (900, 1600, 3) uint8; see ``read_jpeg``."""
    with _opened(jpeg) as image:
        if simplejpeg is not None and image.mode == "RGB":
            simplejpeg.decode_jpeg(jpeg_bytes(jpeg), colorspace="RGB", buffer=pixels)
        else:
            image.load()
            pixels[:] = np.asarray(image.convert("RGB"))


@contextlib.contextmanager
def _opened(jpeg: Jpeg) -> Generator[Image.Image]:
    """Open a camera image, without decoding it; say what is wrong with it in the end."""
    if isinstance(jpeg, bytes):
        what, source = f"a camera image of {len(jpeg):,} bytes", io.BytesIO(jpeg)
        repair = "send what the camera's image was compressed to, whole"
    else:
        what, source = f"the image {jpeg}", jpeg
        repair = "unpack the clip's archive again, or leave the clip out"
    try:
        # Pillow knows many formats, some of which run other programs.
        with Image.open(source, formats=["JPEG"]) as image:
            if image.size != CAMERA_SIZE:
                raise ClipError(
                    f"{what} is {image.width}x{image.height}",
                    expected="1600x900, to which resize and intrinsics are tied",
                    repair="use Bench2Drive's original images",
                )
            yield image
    except FileNotFoundError as error:
        raise ClipError(
            f"{what} does not exist",
            expected="a JPEG of every camera for every annotated frame",
            repair=repair,
        ) from error
    except (OSError, *UNDECODABLE) as error:
        raise ClipError(
            f"{what} cannot be decoded: {error}", expected="a whole JPEG file", repair=repair
        ) from error

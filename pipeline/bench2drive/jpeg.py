"""Camera images as Bench2Drive stores them: JPEGs of 1600x900."""

from __future__ import annotations

import contextlib
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
    from pathlib import Path

CAMERA_SIZE = (IMAGE_WIDTH, IMAGE_HEIGHT)
"""Width and height of every camera image."""
UNDECODABLE = (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError)
"""Raised by the decoders for a file that is not a whole JPEG, besides OSError."""


def read_jpeg(path: Path) -> Image.Image:
    """Read and decode one camera image, RGB.

    Raises:
        ClipError: The file is missing, not a whole JPEG, or not 1600x900.
    """
    with _opened(path) as image:
        if simplejpeg is not None and image.mode == "RGB":
            return Image.fromarray(simplejpeg.decode_jpeg(path.read_bytes(), colorspace="RGB"))
        return _decoded(image)


def read_jpeg_into(pixels: np.ndarray, path: Path) -> None:
    """Read one camera image and decode it, RGB, into an array (900, 1600, 3) uint8; see ``read_jpeg``."""
    with _opened(path) as image:
        if simplejpeg is not None and image.mode == "RGB":
            simplejpeg.decode_jpeg(path.read_bytes(), colorspace="RGB", buffer=pixels)
        else:
            pixels[:] = np.asarray(_decoded(image))


def _decoded(image: Image.Image) -> Image.Image:
    """Decode an opened image, to the pixels that ``simplejpeg`` would yield."""
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")


@contextlib.contextmanager
def _opened(path: Path) -> Generator[Image.Image]:
    """Open a camera image, without decoding it; say what is wrong with its file in the end."""
    try:
        with Image.open(path) as image:
            if image.size != CAMERA_SIZE:
                raise ClipError(
                    f"the image {path} is {image.width}x{image.height}",
                    expected="1600x900, to which resize and intrinsics are tied",
                    repair="use Bench2Drive's original images",
                )
            yield image
    except FileNotFoundError as error:
        raise ClipError(
            f"the image {path} does not exist",
            expected="a JPEG of every camera for every annotated frame",
            repair="unpack the clip's archive again, or leave the clip out",
        ) from error
    except (OSError, *UNDECODABLE) as error:
        raise ClipError(
            f"the image {path} cannot be decoded: {error}",
            expected="a whole JPEG file",
            repair="unpack the clip's archive again, or leave the clip out",
        ) from error

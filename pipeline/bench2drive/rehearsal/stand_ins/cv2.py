"""OpenCV's JPEG where there is no OpenCV: by Pillow, which gives the same pixels at the same quality."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Sequence

IMWRITE_JPEG_QUALITY = 1


def imencode(ending: str, image: np.ndarray, parameters: Sequence[int]) -> tuple[bool, np.ndarray]:
    """Return whether it could be done, and the bytes of a JPEG of an image (H, W, 3) BGR."""
    assert ending == ".jpg"
    assert parameters[0] == IMWRITE_JPEG_QUALITY
    encoded = io.BytesIO()
    pixels = np.ascontiguousarray(image[:, :, ::-1])
    Image.fromarray(pixels).save(encoded, "JPEG", quality=parameters[1], subsampling="4:2:0")
    return True, np.frombuffer(encoded.getvalue(), np.uint8)

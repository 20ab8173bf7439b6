"""The three front cameras as one strip, as a camera-only student sees them (spec LatentVLA 4).

Of the cameras to the sides, which look 55 degrees away and see 70 wide, the columns are kept that see what
the front camera does not; of all three, the rows that make the strip exactly four times as wide as high. So
it spans 75 degrees to either side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from cache_schema.errors import RequestError
from cache_schema.vocabulary.latent_actions import CAMERA_STRIP
from pipeline.bench2drive.geometry import IMAGE_WIDTH

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STRIPS = {CAMERA_STRIP: (1024, 256), "camera_strip_512": (512, 128), "camera_strip_256": (256, 64)}
"""What can be asked for -> width and height. In a dataset all are called ``camera_strip``."""

ROWS = (42, 858)
"""Rows that are kept, from the first to behind the last."""
COLUMNS = {"CAM_FRONT_LEFT": (384, 1216), "CAM_FRONT": (0, IMAGE_WIDTH), "CAM_FRONT_RIGHT": (384, 1216)}
"""Camera -> columns that are kept of it, from left to right."""
CUT = (sum(end - begin for begin, end in COLUMNS.values()), ROWS[1] - ROWS[0])
"""Width and height of the strip before it is resized: 3264x816."""


def strip_size(names: Sequence[str]) -> tuple[int, int]:
    """Return the width and height of the strip that is asked for.

    Raises:
        RequestError: There is no such input, or several are asked for at once.
    """
    if unknown := [name for name in names if name not in STRIPS]:
        raise RequestError(
            f"Bench2Drive has no input {', '.join(map(repr, unknown))}",
            expected=f"one of {', '.join(STRIPS)}",
            repair="correct --inputs",
        )
    if len(names) != 1:
        raise RequestError(
            f"{len(names)} strips were asked for: {', '.join(names)}",
            expected=f"one of {', '.join(STRIPS)}, which are all stored as {CAMERA_STRIP!r}",
            repair="leave all but one out of --inputs",
        )
    return STRIPS[names[0]]


def cut(image: Callable[[str], Image.Image]) -> Image.Image:
    """Cut and join images of 1600x900 to a strip of 3264x816.

    Args:
        image: Returns the image of a camera.
    """
    strip = Image.new("RGB", CUT)
    left = 0
    for camera, (begin, end) in COLUMNS.items():
        strip.paste(image(camera).crop((begin, ROWS[0], end, ROWS[1])), (left, 0))
        left += end - begin
    return strip


def resized(strip: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Resize a strip with an antialiased bicubic to a width and height: (height, width, 3) uint8 RGB."""
    return np.array(strip.resize(size, Image.Resampling.BICUBIC))

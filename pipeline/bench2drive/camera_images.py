"""The six camera images of one raw frame, as thumbnails."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from cache_schema.errors import ClipError
from pipeline.bench2drive.clips import ClipName, RawClip, clips_folder
from pipeline.bench2drive.jpeg import UNDECODABLE

if TYPE_CHECKING:
    from pathlib import Path

SHOWN_SIZE = (480, 270)
"""Largest width and height, in pixels."""
READING_ORDER = (
    "CAM_FRONT_LEFT",
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_BACK_LEFT",
    "CAM_BACK",
    "CAM_BACK_RIGHT",
)
"""Two rows: what is left of the ego is shown on the left."""


def camera_images(data_root: Path, clip: str, frame: int) -> dict[str, np.ndarray]:
    """Read the images of a frame.

    Args:
        data_root: Folder of the unpacked clips, or around ``v1/``.
        clip: Name of the clip.
        frame: Number of the frame in the raw clip.

    Returns:
        (h, w, 3) uint8 RGB by the camera's name, in ``READING_ORDER``.

    Raises:
        ClipError: The clip's name does not parse, or an image is missing or not whole.
    """
    ClipName.parse(clip)  # and so it cannot leave the folder
    raw = RawClip(clips_folder(data_root) / clip)
    return {camera: _read(raw.image_path(camera, frame)) for camera in READING_ORDER}


def _read(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            image.thumbnail(SHOWN_SIZE)
            return np.asarray(image.convert("RGB"))
    except (OSError, *UNDECODABLE) as error:
        raise ClipError(
            f"the image {path} cannot be read: {error}",
            expected="a JPEG of every camera for this frame",
            repair="give the folder of the unpacked clips, or show the frame without images",
        ) from error

"""Which boxes a camera can see, by the filter of the published truth (spec: Bench2Drive, section 3.3).

Dimension letters: K boxes, P points of a box, C cameras.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from cache_schema.errors import ClipError
from pipeline.bench2drive.geometry import CAMERAS, IMAGE_HEIGHT, IMAGE_WIDTH

if TYPE_CHECKING:
    from pipeline.bench2drive.annotations import Annotation
    from pipeline.bench2drive.clips import RawClip

Visibility = Literal["depth", "fov", "off"]
"""``depth``: the original test, with depth images; ``fov``: as if nothing occluded; ``off``: no test."""

CORNER_SIGNS = np.array(list(itertools.product((1.0, -1.0), repeat=3)))
"""(8, 3) signs of a box's corners, in the order of the annotations' ``world_cord``."""

FAR_M = 75.0


def load_depth(clip: RawClip, frame: int) -> np.ndarray:
    """Read the six depth images of a frame; return (6, 900, 1600) uint8, metres saturated at 255.

    Raises:
        ClipError: An image is missing or not whole.
    """
    return np.stack([_load(clip, camera, frame) for camera in CAMERAS])


def _load(clip: RawClip, camera: str, frame: int) -> np.ndarray:
    path = clip.depth_path(camera, frame)
    try:
        with Image.open(path) as image:
            depth = np.asarray(image.convert("RGB"))[..., 2]
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ClipError(
            f"the depth image {path} cannot be read: {error}",
            expected="a grey PNG of every camera for every annotated frame",
            repair="unpack the clip's archive again, or ask for visibility 'fov', which needs no depth",
        ) from error
    if depth.shape != (IMAGE_HEIGHT, IMAGE_WIDTH):
        raise ClipError(
            f"the depth image {path} is {depth.shape[1]}x{depth.shape[0]}",
            expected=f"{IMAGE_WIDTH}x{IMAGE_HEIGHT}",
            repair="use Bench2Drive's original images, or ask for visibility 'fov', which needs no depth",
        )
    return depth


def filter_corners(centre: np.ndarray, size: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """Return the eight points (..., 8, 3) that the original filter tests, LiDAR frame.

    They are not the box's corners: the original turns them by ``-yaw``, so the long side points elsewhere.
    Which boxes the published metrics count depends on it.

    Args:
        centre: (..., 3) metres, LiDAR frame.
        size: (..., 3) width, length, height in metres.
        yaw: (...) heading in radians, counter-clockwise from +x.
    """
    cos, sin = np.cos(yaw)[..., None], np.sin(yaw)[..., None]
    x, y, z = np.moveaxis(CORNER_SIGNS * size[..., None, :] / 2, -1, 0)  # (..., 8) each
    return np.stack([cos * x + sin * y, cos * y - sin * x, z], axis=-1) + centre[..., None, :]


def visible(corners: np.ndarray, annotation: Annotation, depth: np.ndarray | None) -> np.ndarray:
    """Tell of each box whether some camera sees more than one of its points, (K) bool.

    The original also asks for fewer than seven points outside the image, which then holds of itself.

    Args:
        corners: (K, P, 3) metres, LiDAR frame.
        annotation: The frame, for its cameras.
        depth: (C, 900, 1600) metres, or None where nothing occludes.
    """
    rotation, shift = annotation.lidar2cam[:, None, :3, :3], annotation.lidar2cam[:, None, None, :3, 3]
    points = corners @ rotation.swapaxes(-1, -2) + shift  # (C, K, P, 3)
    far = points[..., 2]
    pixels = points @ annotation.intrinsic[:, None].swapaxes(-1, -2)
    u, v = np.moveaxis(pixels[..., :2] / np.where(far > 0, far, 1.0)[..., None], -1, 0)  # (C, K, P) each
    seen = (far > 0) & (far < FAR_M) & (u >= 0) & (u < IMAGE_WIDTH) & (v >= 0) & (v < IMAGE_HEIGHT)
    if depth is not None:
        seen &= ~_occluded(np.where(seen, u, 0), np.where(seen, v, 0), far, depth)
    return (seen.sum(-1) > 1).any(0)


def _occluded(u: np.ndarray, v: np.ndarray, far: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Tell of each point (C, K, P) whether all four diagonal neighbours of its pixel are nearer."""
    column = u.astype(int)[..., None] + (-1, -1, 1, 1)
    row = v.astype(int)[..., None] + (-1, 1, -1, 1)
    on_image = (column >= 0) & (column < IMAGE_WIDTH) & (row >= 0) & (row < IMAGE_HEIGHT)
    camera = np.arange(len(depth))[:, None, None, None]
    nearest = depth[camera, np.clip(row, 0, IMAGE_HEIGHT - 1), np.clip(column, 0, IMAGE_WIDTH - 1)]
    return ((nearest < far[..., None]) | ~on_image).all(-1)

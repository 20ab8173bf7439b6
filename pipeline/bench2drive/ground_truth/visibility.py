"""Which boxes a camera can see, by the filter of the published ground truth (spec: Bench2Drive, section 3.3).

The published filter also reads depth images. Many downloads leave them out, and the same clip must have the
same ground truth everywhere; so here nothing occludes.

Dimension letters: K boxes, P points of a box, C cameras.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from pipeline.bench2drive.geometry import IMAGE_HEIGHT, IMAGE_WIDTH

if TYPE_CHECKING:
    from pipeline.bench2drive.annotations import Annotation

CORNER_SIGNS = np.array(list(itertools.product((1.0, -1.0), repeat=3)))
"""(8, 3) signs of a box's corners, in the order of the annotations' ``world_cord``."""

FAR_M = 75.0


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


def visible(corners: np.ndarray, annotation: Annotation) -> np.ndarray:
    """Return (K) bool: whether some camera sees more than one point of the box.

    The original also asks for fewer than seven points outside the image, which then always holds.

    Args:
        corners: (K, P, 3) metres, LiDAR frame.
        annotation: The frame, for its cameras.
    """
    rotation, shift = annotation.lidar2cam[:, None, :3, :3], annotation.lidar2cam[:, None, None, :3, 3]
    points = corners @ rotation.swapaxes(-1, -2) + shift  # (C, K, P, 3)
    far = points[..., 2]
    pixels = points @ annotation.intrinsic[:, None].swapaxes(-1, -2)
    u, v = np.moveaxis(pixels[..., :2] / np.where(far > 0, far, 1.0)[..., None], -1, 0)  # (C, K, P) each
    seen = (far > 0) & (far < FAR_M) & (u >= 0) & (u < IMAGE_WIDTH) & (v >= 0) & (v < IMAGE_HEIGHT)
    return (seen.sum(-1) > 1).any(0)

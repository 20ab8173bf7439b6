"""Objects that texts name by camera and place, ``<c1,CAM_FRONT,0.47,0.68>``, matched as DriveLM does."""

from __future__ import annotations

import re
from typing import NamedTuple

TAG = re.compile(r"<\s*c\d+\s*,\s*(\w+)\s*,\s*(\d+(?:\.\d*)?)\s*,\s*(\d+(?:\.\d*)?)\s*>")
IMAGE = (1600, 900)
"""Width and height in pixels of nuScenes' images, of which coordinates up to 1 are fractions."""
DISTANCE = 16
"""Pixels, horizontal and vertical added up, from which on two places are of two objects (DriveLM)."""


class Tagged(NamedTuple):
    """An object that a text names."""

    camera: str
    x: float
    """Pixels from the left."""
    y: float
    """Pixels from the top."""


def tagged(text: str) -> list[Tagged]:
    """Return the objects that a text names, in its order."""
    return [Tagged(camera, *_pixels(float(x), float(y))) for camera, x, y in TAG.findall(text)]


def match_f1(reply: str, answer: str) -> float | None:
    """Return the F1 of the objects of a reply, or None where the answer names none.

    One after the other takes the nearest object of the answer in its camera that is left; it is found if that
    is nearer than ``DISTANCE``. DriveLM itself compares every pair of decimals of a text, and no cameras.
    """
    left = tagged(answer)
    if not left:
        return None
    named, wanted, found = tagged(reply), len(left), 0
    for one in named:
        candidates = [other for other in left if other.camera == one.camera]
        nearest = min(candidates, key=lambda other, one=one: _distance(one, other), default=None)
        if nearest is not None and _distance(one, nearest) < DISTANCE:
            left.remove(nearest)
            found += 1
    return 2 * found / (len(named) + wanted)


def _pixels(x: float, y: float) -> tuple[float, float]:
    return (x * IMAGE[0], y * IMAGE[1]) if max(x, y) <= 1 else (x, y)


def _distance(one: Tagged, other: Tagged) -> float:
    return abs(one.x - other.x) + abs(one.y - other.y)

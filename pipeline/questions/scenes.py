"""Which scene an image is of, and on which side of the split the scene is."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from cache_schema.storage.safe_io import CLIP_NAME
from pipeline.bench2drive.clips import ClipName, current_name, looks_like_clip
from pipeline.bench2drive.splits import bench2drive_validation, split_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cache_schema.format.ledger import Split

ONE_IN = 10
"""Of so many scenes without a split of their own one is for validation."""

_NUSCENES = re.compile(r"(.+?)__[A-Z_]+__([0-9]+)")
_BDD = re.compile(r"([0-9a-f]{8}-[0-9a-f]{8})(?:-([0-9]+))?")
_CAMERA = re.compile(r"(?:cam|rgb)_.*|\.\.?|/", re.IGNORECASE)
"""Folders that say nothing of the scene."""


class Place(NamedTuple):
    """What the path of an image tells."""

    scene: str | None
    frame: int | None = None
    """Number of the frame in the scene."""
    time_us: int | None = None
    """Timestamp, where that orders the frames."""


def place_of(written: str) -> Place:
    """Return what the path of an image tells of its scene.

    A nuScenes file names log and time; a Bench2Drive clip is a folder of numbered images; a BDD100K file
    names its video. Of other images the nearest folder that is not a camera's names the scene.
    """
    path = PurePosixPath(written.replace("\\", "/"))
    stem = path.name.partition(".")[0]
    for folder in path.parts[:-1]:
        if looks_like_clip(current_name(folder)):
            return Place(current_name(folder), _number(stem))
    if match := _NUSCENES.fullmatch(stem):
        return Place(match[1], time_us=int(match[2]))
    if match := _BDD.fullmatch(stem):
        return Place(match[1], _number(match[2] or ""))
    return Place(next((part for part in reversed(path.parts[:-1]) if not _CAMERA.fullmatch(part)), None))


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else None


def side_of(scene: str) -> Split:
    """Return the side of a scene that has no split of its own.

    Bench2Drive's official list decides for its clips. Of others one in ``ONE_IN`` is for validation: those
    whose name's sha256, read as a big-endian number, is divisible by ``ONE_IN``.
    """
    if looks_like_clip(scene):
        return split_of(scene, bench2drive_validation())
    digest = hashlib.sha256(scene.encode()).digest()
    return "train" if int.from_bytes(digest, "big") % ONE_IN else "val"


def tags_of(scene: str) -> dict[str, str]:
    """Return scenario, town, route and weather of a Bench2Drive clip; nothing for another scene."""
    return ClipName.parse(scene).tags if looks_like_clip(scene) else {}


def clip_name(scene: str) -> str:
    """Return a clip's name for a scene: its own, or one like it with a digest."""
    if re.fullmatch(CLIP_NAME, scene):
        return scene
    name = re.sub("[^A-Za-z0-9._-]", "_", scene).lstrip("._-")[:180] or "scene"
    return f"{name}-{hashlib.sha256(scene.encode()).hexdigest()[:8]}"


def time_of(images: Iterable[str]) -> int | None:
    """Return the earliest time of the images of a frame, whose cameras are not exposed at the same time."""
    times = (place_of(image).time_us for image in images)
    return min((time for time in times if time is not None), default=None)

"""Which clips are for training and which for validation (spec: Bench2Drive, section 2)."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING

from cache_schema.errors import ClipError
from pipeline.bench2drive.clips import (
    current_name,
    folders_around,
    looks_like_clip,
    without_archive_suffix,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from cache_schema.format.ledger import Split

SPLIT_FILE = "splits/bench2drive_base_train_val_split.json"
"""Where a data root, or the folder around it, keeps its own split."""


def bench2drive_validation() -> tuple[str, ...]:
    """Return the 50 validation clips of Bench2Drive Base, in the order of the official split."""
    return tuple(files("pipeline.bench2drive").joinpath("validation_clips.txt").read_text("utf-8").split())


def own_split_file(root: Path) -> Path | None:
    """Return a data root's own split file, which wins over Bench2Drive's; None where there is none."""
    files = (up / SPLIT_FILE for folder in folders_around(root) for up in (folder, folder.parent))
    return next((file for file in files if file.is_file()), None)


def validation_clips(root: Path) -> tuple[str, ...]:
    """Return the names of a data root's validation clips, in order.

    The root's own split file (``{"val": ["v1/<clip>", ...]}``) wins over Bench2Drive's. An entry names a clip
    by its folder or its archive, in whatever folder, in the spelling of now or of then.

    Raises:
        ClipError: The root's split file cannot be read, an entry names no clip, or a clip is on both sides.
    """
    file = own_split_file(root)
    return bench2drive_validation() if file is None else _read_split(file)


def split_of(clip: str, validation: tuple[str, ...]) -> Split:
    """Return the split of a clip: what is not for validation is for training."""
    return "val" if clip in validation else "train"


def unlisted(root: Path, clips: Iterable[str]) -> str | None:
    """Return a sentence for the user where a data root's own split file names none of its clips.

    Args:
        root: The data root.
        clips: Names of all of its clips.
    """
    file, clips = own_split_file(root), set(clips)
    if file is None or not clips:
        return None
    sides = _sides(file)
    if not sides["val"] or clips.intersection(sides["val"]) or clips <= set(sides["train"]):
        return None
    return (
        f"none of the {len(sides['val'])} validation clips that the split file {file} lists is here: "
        f"all {len(clips)} clips are for training"
    )


def _read_split(path: Path) -> tuple[str, ...]:
    return _sides(path)["val"]


def _sides(path: Path) -> dict[Split, tuple[str, ...]]:
    try:
        content = json.loads(path.read_bytes())
        sides: dict[Split, tuple[str, ...]] = {
            "val": tuple(map(_clip_of, _entries(content["val"]))),
            "train": tuple(map(_clip_of, _entries(content.get("train", [])))),
        }
        if unknown := [name for name in sides["val"] if not looks_like_clip(name)]:
            raise ValueError(f"{unknown[0]!r} under 'val' names no clip")
        if both := sorted(set(sides["val"]).intersection(sides["train"])):
            raise ValueError(f"{both[0]} stands under 'val' and under 'train'")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ClipError(
            f"the split file {path} cannot be used: {type(error).__name__}: {error}",
            expected='JSON of the form {"val": ["v1/<clip>", ...]}, every clip on one side only',
            repair="correct the file, or remove it to use Bench2Drive's own split",
        ) from error
    return sides


def _entries(value: object) -> list[str]:
    if not isinstance(value, list):
        raise TypeError(f"{str(value)[:80]!r} is not a list")
    for entry in value:
        if not isinstance(entry, str):
            raise TypeError(f"the entry {str(entry)[:80]} is not a text")
    return value


def _clip_of(entry: str) -> str:
    """Return the clip that an entry names: the last part of a path, in today's spelling."""
    last = entry.strip().replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    return current_name(without_archive_suffix(last))

"""Which clips are for training and which for validation (spec: Bench2Drive, section 2)."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING

from cache_schema.errors import ClipError
from pipeline.bench2drive.clips import clips_folder

if TYPE_CHECKING:
    from pathlib import Path

    from cache_schema.format.ledger import Split

SPLIT_FILE = "splits/bench2drive_base_train_val_split.json"
"""Where a data root, or the folder around it, keeps its own split."""


def bench2drive_validation() -> tuple[str, ...]:
    """Return the 50 validation clips of Bench2Drive Base, in the order of the official split."""
    return tuple(files("pipeline.bench2drive").joinpath("validation_clips.txt").read_text("utf-8").split())


def validation_clips(root: Path) -> tuple[str, ...]:
    """Return the names of a data root's validation clips, in order.

    The root's own split file (``{"val": ["v1/<clip>", ...]}``) wins over Bench2Drive's.

    Raises:
        ClipError: The root's split file cannot be read.
    """
    folder = clips_folder(root.resolve())
    around = folder.parent if folder.name == "v1" else folder
    for path in (around / SPLIT_FILE, around.parent / SPLIT_FILE):
        if path.is_file():
            return _read_split(path)
    return bench2drive_validation()


def split_of(clip: str, validation: tuple[str, ...]) -> Split:
    """Return the split of a clip: what is not for validation is for training."""
    return "val" if clip in validation else "train"


def _read_split(path: Path) -> tuple[str, ...]:
    try:
        return tuple(entry.rsplit("/", 1)[-1] for entry in json.loads(path.read_bytes())["val"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ClipError(
            f"the split file {path} cannot be read: {type(error).__name__}: {error}",
            expected='JSON of the form {"val": ["v1/<clip>", ...]}',
            repair="correct the file, or remove it to use Bench2Drive's own split",
        ) from error

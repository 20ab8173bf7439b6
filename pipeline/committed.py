"""Which clips a dataset has already, and whether they are still those of the source.

A dataset records of its clips what every reader needs. What they were made from is known to the folder that
they were made in: a hidden file there has the fingerprint of every clip's raw files, written before the clip
is. A dataset without it, or a clip that came from elsewhere, is taken as it is.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple, Self

from cache_schema.dataset.commit import disk_errors
from cache_schema.errors import DatasetError, LeftOut
from cache_schema.format.ledger import Ledger
from cache_schema.storage.atomic_io import sync
from cache_schema.storage.json_lines import JsonLines, read_json_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

FINGERPRINTS = ".fingerprints.jsonl"
"""File of a dataset's folder that is never shared: a line for every clip that was begun."""


class Candidate(NamedTuple):
    """A clip of a source, as it would be committed now."""

    name: str
    frames: int
    split: str
    tags: Mapping[str, str]
    fingerprint: Callable[[], str | None]
    """Returns a digest of the raw files; None where the source has none."""


class Fingerprints(JsonLines):
    """Records what the clips of a dataset are made from. Use it as a context manager.

    Args:
        dataset: The dataset's folder, held by this run.

    Raises:
        DatasetError: The disk refuses.
    """

    def __init__(self, dataset: Path) -> None:
        super().__init__(_file(dataset))
        self._dataset = dataset

    def __enter__(self) -> Self:
        with disk_errors(self._dataset):
            super().__enter__()
            sync(self._dataset)
        return self

    def begin(self, clip: str, fingerprint: str | None) -> None:
        """Record a clip's fingerprint, before the clip is begun."""
        with disk_errors(self._dataset):
            self.write({"clip": clip, "fingerprint": fingerprint})
            os.fsync(self._file.fileno())


def committed(dataset: Path, clips: Iterable[Candidate]) -> tuple[tuple[str, ...], list[LeftOut]]:
    """Compare the clips of a source with those that a dataset has.

    Returns:
        Names of clips that the dataset has, and clips that it has otherwise: of other length, split, tags or
        raw files.
    """
    ledger = Ledger(dataset)
    names = set(ledger.clips())
    recorded = _recorded(dataset) if names else {}
    present, stale = [], []
    for clip in clips:
        if clip.name not in names:
            continue
        try:
            reason = _difference(ledger, clip, recorded.get(clip.name))
        except DatasetError as error:
            stale.append(LeftOut.because(clip.name, error))
            continue
        if reason is None:
            present.append(clip.name)
        else:
            repair = f"delete ledger/{clip.name}.json to make it again, or give back what it was made from"
            stale.append(LeftOut(clip.name, reason, repair))
    return tuple(present), stale


def _difference(ledger: Ledger, clip: Candidate, recorded: str | None) -> str | None:
    held = ledger.read(clip.name).clip
    if held.frames != clip.frames:
        return f"it has {clip.frames} frames, but the dataset holds it with {held.frames}"
    if held.split != clip.split:
        return f"it is on the side {clip.split} of the split, but the dataset holds it as {held.split}"
    for tag in sorted({*held.tags, *clip.tags}):
        there, now = held.tags.get(tag, ""), clip.tags.get(tag, "")
        if there != now:
            return f"its {tag} is {now!r}, but the dataset holds it with {there!r}"
    if recorded is not None and recorded != clip.fingerprint():
        return "its raw files are others than those that the dataset's clip was made from"
    return None


def _recorded(dataset: Path) -> dict[str, str | None]:
    lines = read_json_lines(_file(dataset), ("clip", "fingerprint"))
    return {str(line["clip"]): line["fingerprint"] for line in lines}


def _file(dataset: Path) -> Path:
    file = dataset / FINGERPRINTS
    if file.is_symlink():
        raise DatasetError(
            f"{file} is a symbolic link",
            expected="a file of the dataset's own: a run would write to whatever the link leads to",
            repair="delete the link",
        )
    return file

"""Damaged clips are set aside, so that the next extraction makes them again.

Nothing is mended in place and nothing is deleted that somebody may want to look at: a bad clip moves, whole,
to ``.quarantine/``, which readers, verification and extraction pass over. A clip that is not there is a clip
that an extraction, a merge or a pull makes again.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cache_schema.dataset.clip_writer import PARTIAL, disk_errors
from cache_schema.dataset.reader import read_manifest
from cache_schema.dataset.writer import check_place, clear_rubbish
from cache_schema.errors import DatasetError
from cache_schema.format.ledger import Ledger
from cache_schema.integrity.verify import Problem, Verification, verify
from cache_schema.progress import SILENT
from cache_schema.storage.atomic_io import rename_durably, sync
from cache_schema.storage.locks import hold

if TYPE_CHECKING:
    from pathlib import Path

    from cache_schema.progress import Progress

QUARANTINE = ".quarantine"
"""Of bad clips: ``.quarantine/<clip>/`` holds the folder as ``clip`` and the entry as ``entry.json``."""


@dataclass(frozen=True)
class Repair:
    """What a repair found and did; of a dry run, what it would do."""

    verification: Verification
    quarantined: tuple[str, ...]
    """Clips that were set aside, to be made again."""
    cleared: tuple[str, ...]
    """What killed runs had left of these clips, deleted."""
    left: tuple[Problem, ...]
    """Problems of the dataset as a whole, which setting clips aside does not mend."""


def repair(
    path: Path,
    *,
    dry_run: bool = False,
    threads: int | None = None,
    progress: Progress = SILENT,
) -> Repair:
    """Verify a dataset and set aside exactly the clips that are not as they were written.

    Args:
        path: The dataset's folder.
        dry_run: Change nothing.
        threads: Clips checked at the same time; one a core by default.
        progress: Counts clips that are checked.

    Raises:
        DatasetError: There is no readable manifest, another run is writing, or the disk refuses.
    """
    check_place(path)
    read_manifest(path)  # before a lock file is made: there may be no dataset
    if dry_run:
        return _plan(path, verify(path, threads=threads, progress=progress))
    with hold(path):
        found = _plan(path, verify(path, threads=threads, progress=progress))
        with disk_errors(path):
            for clip in found.quarantined:
                _set_aside(path, clip)
            clear_rubbish(path)
    return found


def _plan(path: Path, verification: Verification) -> Repair:
    committed = set(Ledger(path / "ledger").clips())
    concerned = {problem.clip for problem in verification.problems if problem.clip is not None}
    return Repair(
        verification=verification,
        quarantined=tuple(sorted(concerned & committed)),
        cleared=tuple(sorted(concerned - committed)),
        left=tuple(
            problem
            for problem in verification.problems
            if problem.clip is None and not problem.what.startswith(PARTIAL)
        ),
    )


def _set_aside(path: Path, clip: str) -> None:
    quarantine = path / QUARANTINE
    if quarantine.is_symlink():
        raise DatasetError(
            f"{quarantine} is a symbolic link",
            expected="a folder of the dataset's own",
            repair="delete the link and run this command again",
        )
    quarantine.mkdir(exist_ok=True)
    # A clip may have been bad before.
    names = itertools.chain([clip], (f"{clip}.{number}" for number in itertools.count(2)))
    place = next(quarantine / name for name in names if not (quarantine / name).exists())
    place.mkdir()
    # The entry first: a clip without it is not there, whatever happens next.
    rename_durably(path / "ledger" / f"{clip}.json", place / "entry.json")
    folder = path / "clips" / clip
    if folder.is_symlink() or folder.exists():
        rename_durably(folder, place / "clip")
        sync(path / "clips")
    sync(path / "ledger")

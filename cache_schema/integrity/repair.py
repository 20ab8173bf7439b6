"""Damaged clips are set aside, so that the next extraction makes them again.

Nothing is repaired in place, and nothing is deleted that may still be examined: a damaged clip moves, whole,
to ``.quarantine/``, which readers, verification and extraction ignore. A clip that is missing is a clip that
an extraction, a merge or a pull makes again.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Group

from cache_schema.dataset.commit import PARTIAL, disk_errors
from cache_schema.dataset.reader import read_manifest
from cache_schema.dataset.writer import check_path, clear_remains
from cache_schema.errors import DatasetError
from cache_schema.format.ledger import Ledger
from cache_schema.integrity.problem import Problem, problem_table
from cache_schema.integrity.verify import Verification, verify
from cache_schema.progress import SILENT
from cache_schema.storage.atomic_io import rename_durably, sync
from cache_schema.storage.locks import hold

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import RenderableType

    from cache_schema.progress import Progress

QUARANTINE = ".quarantine"
"""``.quarantine/<clip>/`` holds the folder of a damaged clip as ``clip`` and its entry as ``entry.json``."""


@dataclass(frozen=True)
class Repair:
    """Result of a repair; of a dry run, what it would do."""

    dry_run: bool
    verification: Verification
    quarantined: tuple[str, ...]
    """Clips that were set aside, to be made again."""
    cleared: tuple[str, ...]
    """Clips of which killed runs had left remains, now deleted."""
    left: tuple[Problem, ...]
    """Problems of the dataset as a whole, which setting clips aside does not solve."""

    def __rich__(self) -> Group:
        """Show it as lines, and a table of what is left."""
        would = "would be " if self.dry_run else ""
        lines: list[RenderableType] = [f"{would}put aside: {clip}" for clip in self.quarantined]
        lines += [f"{would}cleared away: {clip}" for clip in self.cleared]
        if self.left:
            lines.append(problem_table(self.left, "beyond repair; fetch these files again"))
        elif not self.quarantined:
            lines.append(f"{self.verification.clips} clips: all as written")
        return Group(*lines)


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
    check_path(path)
    read_manifest(path)  # before a lock file is made: there may be no dataset
    if dry_run:
        return _plan(path, verify(path, threads=threads, progress=progress), dry_run=True)
    with hold(path):
        found = _plan(path, verify(path, threads=threads, progress=progress), dry_run=False)
        with disk_errors(path):
            for clip in found.quarantined:
                _set_aside(path, clip)
            clear_remains(path)
    return found


def _plan(path: Path, verification: Verification, *, dry_run: bool) -> Repair:
    committed = set(Ledger(path).clips())
    concerned = {problem.clip for problem in verification.problems if problem.clip is not None}
    return Repair(
        dry_run=dry_run,
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
    # A clip may have been damaged before.
    names = itertools.chain([clip], (f"{clip}.{number}" for number in itertools.count(2)))
    aside = next(quarantine / name for name in names if not (quarantine / name).exists())
    aside.mkdir()
    # The entry first: without it the clip is not part of the dataset, whatever happens next.
    rename_durably(path / "ledger" / f"{clip}.json", aside / "entry.json")
    folder = path / "clips" / clip
    if folder.is_symlink() or folder.exists():
        rename_durably(folder, aside / "clip")
        sync(path / "clips")
    sync(path / "ledger")

"""Damaged clips are set aside, so that the next extraction makes them again.

Nothing is repaired in place, and nothing is deleted that may still be examined: a damaged clip moves, whole,
to ``.quarantine/``, which readers, verification and extraction ignore. A clip that is missing is a clip that
an extraction, a merge or a pull makes again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Group

from cache_schema.dataset.commit import disk_errors
from cache_schema.dataset.quarantine import set_aside
from cache_schema.dataset.reader import read_manifest
from cache_schema.dataset.writer import check_path, clear_remains, clips_group_wrong
from cache_schema.format.ledger import Ledger
from cache_schema.integrity.problem import Problem, problem_table
from cache_schema.integrity.verify import Verification, verify
from cache_schema.progress import SILENT
from cache_schema.storage.locks import hold

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import RenderableType

    from cache_schema.progress import Progress


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
    """Problems that setting clips aside does not solve: of the dataset as a whole, and of foreign files."""
    mended: tuple[Problem, ...] = ()
    """Problems of files that have one possible content, which were written again."""

    def __rich__(self) -> Group:
        """Show it as lines, and a table of what is left."""
        would = "would be " if self.dry_run else ""
        lines: list[RenderableType] = [f"{would}put aside: {clip}" for clip in self.quarantined]
        lines += [f"{would}cleared away: {clip}" for clip in self.cleared]
        lines += [f"{would}written again: {problem.what}" for problem in self.mended]
        if self.left:
            title = "beyond repair; fetch these files again, and delete what is no part of a dataset"
            lines.append(problem_table(self.left, title))
        elif not self.quarantined and not self.mended:
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

    A clip in which a foreign file lies is whole, and stays.

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
                set_aside(path, clip)
            clear_remains(path)
    return found


def _plan(path: Path, verification: Verification, *, dry_run: bool) -> Repair:
    committed = set(Ledger(path).clips())
    damage = [problem for problem in verification.problems if problem.weight == "damage"]
    concerned = {problem.clip for problem in damage if problem.clip is not None}
    whole = [problem for problem in damage if problem.clip is None]
    mended = tuple(problem for problem in whole if problem.what == clips_group_wrong(path))
    foreign = [problem for problem in verification.problems if problem.weight == "foreign"]
    return Repair(
        dry_run=dry_run,
        verification=verification,
        quarantined=tuple(sorted(concerned & committed)),
        cleared=tuple(sorted(concerned - committed)),
        left=(*(problem for problem in whole if problem not in mended), *foreign),
        mended=mended,
    )

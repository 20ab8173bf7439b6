"""One self-contained page about one run or several, and the same numbers as JSON beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict

from cache_schema.errors import RequestError
from cache_schema.storage.atomic_io import write_durably
from cache_schema.storage.paths import refuse_to_replace
from student.open_loop.bootstrap import CONFIDENCE
from student.open_loop.evaluation import By, OpenLoopEvaluation, shown
from student.reporting import figures, tables
from student.reporting.drives import TOY, drawn
from student.reporting.html import PAGE_START, details, figure, page, paragraph, section
from student.reporting.run_summary import CODES, Run, RunSummary, read_runs
from student.reporting.svg import svg

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

NUMBERS_START = b'{\n "runs"'
"""What the numbers of a page begin with."""
REHEARSED = "rehearsal*/drives"
"""Drives in a run's folder: its student's, and those of others beside it."""

Describe = Callable[[Run, OpenLoopEvaluation], Iterable[str]]


class Report(BaseModel):
    """The content of ``report.json``."""

    model_config = ConfigDict(frozen=True)

    runs: tuple[RunSummary, ...]


def report(runs: Sequence[Path], out: Path | None = None) -> Path:
    """Write a page that needs nothing outside it, and its numbers under the same name as ``.json``.

    Runs that ``evaluate`` has measured are shown with their evaluation: driving policies in open loop with
    tables, figures and pictures, every other kind with its numbers.

    Args:
        runs: Folders of training runs.
        out: The page; by default ``report.html`` in the run's folder, or in the folder that holds all runs.

    Returns:
        The page.

    Raises:
        RequestError: A run has nothing to report, several runs share no folder and ``out`` is not given,
            ``out`` would replace another file, or the page cannot be written; one that was there before
            stays.
        CheckpointError: What training or evaluation wrote cannot be read.
    """
    target = out or _beside(runs)
    target_of_numbers = target.parent / f"{target.stem}.json"
    if out is not None:
        refuse_to_replace(target, PAGE_START, "a page by `teachonce report`")
        refuse_to_replace(target_of_numbers, NUMBERS_START, "the numbers of such a page")
        if target == target_of_numbers:
            raise RequestError(
                f"{target} is to hold the report's numbers",
                expected="a name for the page, such as report.html",
                repair="give the page another ending",
            )
    names = [run.resolve().name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run) for run in runs]
    read = read_runs(runs, names)
    numbers = Report(runs=tuple(run.summary for run in read))
    sections = [*_sections(read), *_rehearsed(runs)]
    content = page(names[0] if len(runs) == 1 else f"{len(runs)} runs", sections)
    try:
        write_durably(target, content.encode())
        write_durably(target_of_numbers, numbers.model_dump_json(indent=1).encode())
    except OSError as error:
        raise RequestError(
            f"the report cannot be written to {target}: {error}",
            expected=f"a folder with room for {len(content) / 1e6:.1f} MB, and the right to write",
            repair="free space, or name another file with --out",
        ) from error
    return target


def _beside(runs: Sequence[Path]) -> Path:
    if len(runs) == 1:
        return runs[0] / "report.html"
    folders = {run.resolve().parent for run in runs}
    if len(folders) != 1:
        raise RequestError(
            f"{len(runs)} runs lie in {len(folders)} folders" if runs else "no run was given",
            expected="at least one run, and all of them side by side, or a file for the page",
            repair="name the page with --out, such as --out report.html",
        )
    return folders.pop() / "report.html"


def _sections(runs: Sequence[Run]) -> Iterator[str]:
    summaries = [run.summary for run in runs]
    yield section("Runs", tables.overview(summaries))
    if any(run.epochs for run in summaries):
        yield section("Losses", [figure(svg(figures.loss_curves(summaries)), _caption_of_losses(summaries))])
    yield section("Open-loop errors", _each(runs, lambda _, found: tables.errors(found)))
    yield section("Errors by group", _groups(runs))
    yield section("Imitated features", _similarities(summaries))
    yield section("Codes over time", _each(runs, _codes))
    yield section("Frames from above", _each(runs, _frames))
    yield section("Other evaluations", tables.other_evaluations(summaries))
    yield section("Provenance", tables.provenance(summaries))


def _rehearsed(runs: Sequence[Path]) -> Iterator[str]:
    """Show the drives that lie in the runs' folders."""
    for run in runs:
        for folder in sorted(run.glob(REHEARSED)):
            if drives := [*drawn(folder)]:
                names = [run.name] if len(runs) > 1 else []
                names += [folder.parent.name] if folder.parent.name != "rehearsal" else []
                yield section(", ".join(("Rehearsed drives", *names)), [paragraph(TOY), *drives])


def _each(runs: Sequence[Run], describe: Describe) -> Iterator[str]:
    """Describe every run that is evaluated in open loop, under its name where there are several."""
    for run in runs:
        if run.summary.open_loop is not None:
            inside = "".join(describe(run, run.summary.open_loop))
            yield section(run.summary.name, [inside], depth=3) if len(runs) > 1 else inside


def _caption_of_losses(runs: Sequence[RunSummary]) -> str:
    means = "Mean of every term over an epoch's samples"
    if len(runs) == 1:
        return f"{means}, while training and on held-out clips (val)."
    return f"{means}: solid while training, dotted on held-out clips."


def _similarities(runs: Sequence[RunSummary]) -> Iterator[str]:
    for feature in dict.fromkeys(name for run in runs for name in run.cosines):
        errors = [
            f"{run.name}: relative error {shown(found.relative.value)}, "
            f"mean absolute difference {shown(found.absolute.value)}"
            for run in runs
            if run.open_loop is not None and (found := run.open_loop.similarity.get(feature)) is not None
        ]
        yield figure(svg(figures.cosines(feature, runs)), "; ".join(errors) + ".")


def _groups(runs: Sequence[Run]) -> Iterator[str]:
    for by in get_args(By):
        drawn = figures.errors_by(by, [run.summary for run in runs])
        if drawn is not None:
            caption = (
                f"By {by}, the student's largest error on top; in brackets the frames; {CONFIDENCE:.0%} "
                "intervals where there is more than one clip."
            )
            yield figure(svg(drawn), caption)
            yield details(
                f"By {by}, in numbers", _each(runs, lambda _, found, by=by: tables.group(by, found))
            )


def _codes(run: Run, found: OpenLoopEvaluation) -> Iterator[str]:
    if not any(name.startswith(CODES) for name in run.arrays):
        return
    longest = int(np.bincount(run.arrays["clip"]).argmax())
    rows = np.flatnonzero(run.arrays["clip"] == longest)
    yield figure(
        svg(figures.codes(run.arrays, rows, found.measures)),
        f"{found.clips[longest]}, the longest clip; every colour is a code. R2 is that of a ridge regression "
        "on codes, over the frames of all clips, each half of which is told by what was fitted on the other.",
    )


def _frames(run: Run, found: OpenLoopEvaluation) -> Iterator[str]:
    chosen = (
        ("picture", "", found.pictures, "Frames spread evenly over the split."),
        ("worst", "worst.", found.worst, "The student's largest errors."),
    )
    for rows, prefix, names, caption in chosen:
        if not names:
            continue
        titles = ["\nframe ".join(name.rsplit(" ", 1)) for name in names]
        if rows == "worst":
            errors = run.summary.worst_l2_m
            titles = [f"{title}, L2 {error:.2f} m" for title, error in zip(titles, errors, strict=True)]
        drawn = figures.from_above(run.arrays, rows, prefix, titles)
        yield figure(
            svg(drawn),
            f"{caption} Metres, x right, y forward; lanes and agents as the teacher predicted them.",
        )

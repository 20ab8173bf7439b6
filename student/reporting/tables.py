"""The tables of a report."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from student.open_loop.bootstrap import CONFIDENCE, RESAMPLES
from student.open_loop.collisions import VARIANTS
from student.open_loop.evaluation import By, Estimate, Interval, OpenLoopEvaluation, shown, words
from student.open_loop.metrics import COLUMNS, RATE_COLUMNS
from student.reporting.html import Cell, paragraph, table
from student.reporting.run_summary import GROUP_L2, GROUP_RATE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from student.reporting.run_summary import RunSummary


def overview(runs: Sequence[RunSummary]) -> Iterator[str]:
    """Show one row for each run: its configuration, how long it was trained, and how good it is."""
    features = list(dict.fromkeys(name for run in runs for name in run.cosines))
    head = ["run", "recipe", "epochs", "steps", "loss, train", "loss, val"]
    note = "Losses are the last epoch's."
    measured = any(run.open_loop is not None for run in runs)
    if measured:
        head += ["L2, m", "collisions, %", *(f"cosine, {words(name)}" for name in features)]
        note += (
            " L2 is the student's mean up to 1, 2 and 3 s, collisions are its steps whose box overlaps "
            "another road user's (corrected variant), both in the complete mask; a cosine is that of a "
            "feature of the student with its teacher's."
        )
    yield table(head, [_row(runs, run, features)[: len(head)] for run in runs], texts=2)
    yield paragraph(note, quiet=True)
    clips = {run.open_loop and (run.open_loop.split, run.open_loop.clips) for run in runs}
    if measured and len(clips) > 1:
        yield paragraph("These runs were not all evaluated on the same clips: their errors do not compare.")


def _row(runs: Sequence[RunSummary], run: RunSummary, features: Sequence[str]) -> list[Cell | str]:
    cells: list[Cell | str] = [run.name, run.made_by.recipe or _differences(runs, run) or "-"]
    if run.epochs:
        last = run.epochs[-1]
        losses = (last.train.get("total"), (last.val or {}).get("total"))
        cells += [str(last.epoch), str(last.step), *map(shown, losses)]
    else:
        cells += ["-"] * 4
    found = run.open_loop
    if found is None:
        return [*cells, *["-"] * (2 + len(features))]
    intervals = found.interval["student"]["complete"]
    hits = found.collision["student"]["complete"] if found.collision else {}
    return [
        *cells,
        _cell(found.l2_m["student"]["complete"][GROUP_L2], intervals[GROUP_L2]),
        _cell(hits.get(GROUP_RATE), intervals.get(GROUP_RATE), 2, 100),
        *(_estimate(found.similarity[name].cosine) if name in found.similarity else "-" for name in features),
    ]


def _differences(runs: Sequence[RunSummary], run: RunSummary) -> str:
    """Return the fields of a run's configuration that are not the same in all runs."""
    names = {
        name: None for other in runs for name in runs[0].made_by.config.differences(other.made_by.config)
    }
    values = run.made_by.config.flat()
    return ", ".join(
        f"{words(name.partition('.')[2] or name)} {json.dumps(values[name])}"
        for name in names
        if name in values
    )


def errors(found: OpenLoopEvaluation) -> Iterator[str]:
    """Show all policies, by distance and by collisions."""
    counted = ", ".join(f"{count} in the {mask} mask" for mask, count in found.frames.items())
    yield paragraph(
        f"Split {found.split}, {len(found.clips)} clips, after {found.epoch} epochs; frames with a complete "
        f"ground truth: {counted}. In small print: {CONFIDENCE:.0%} intervals by {RESAMPLES} bootstrap "
        "resamples of whole clips."
    )
    yield table(
        ["policy", "mask", *map(words, COLUMNS)],
        [
            [words(policy), mask, *(_cell(row[name], found.interval[policy][mask][name]) for name in COLUMNS)]
            for policy, masks in found.l2_m.items()
            for mask, row in masks.items()
            if found.frames[mask]
        ],
        caption="L2 in metres: averaged up to a horizon (ORION, VAD, Bench2Drive), and at it (UniAD)",
        texts=2,
    )
    if found.collision:
        yield table(
            ["policy", "variant", *RATE_COLUMNS],
            [
                [words(policy), words(variant), *_rates(found, policy, variant)]
                for policy in found.collision
                for variant in VARIANTS
            ],
            caption="Steps that collide, in percent, complete mask",
            texts=2,
        )
    if found.measures:
        rows = [[words(name), _estimate(value)] for name, value in found.measures.items()]
        yield table(["measure", "mean"], rows, caption="Means over all frames")
    for missing in found.missing:
        yield paragraph(missing)


def _rates(found: OpenLoopEvaluation, policy: str, variant: str) -> Iterator[Cell]:
    row, intervals = found.collision[policy]["complete"], found.interval[policy]["complete"]
    for column in RATE_COLUMNS:
        name = f"{variant}_{column}"
        yield _cell(row[name], intervals[name], 2, 100)


def group(by: By, found: OpenLoopEvaluation) -> Iterator[str]:
    """Show all policies in every group."""
    hit = [GROUP_RATE] if found.collision else []
    yield table(
        [
            by,
            "clips",
            "frames",
            *map(words, found.l2_m),
            *(f"{words(policy)}, %" for policy in found.collision),
        ],
        [
            [
                one.name,
                str(one.clips),
                str(one.frames),
                *(_estimate(means[GROUP_L2]) for means in one.means.values()),
                *(_estimate(means[name], 2, 100) for name in hit for means in one.means.values()),
            ]
            for one in found.groups
            if one.by == by
        ],
        caption="Mean L2 up to 1, 2 and 3 s in metres, then steps that collide (corrected variant)",
    )


def other_evaluations(runs: Sequence[RunSummary]) -> Iterator[str]:
    """Show every number of the evaluations that are not open-loop, with its interval."""
    evaluated = [
        (run.name, run.evaluation) for run in runs if run.evaluation is not None and run.open_loop is None
    ]
    if not evaluated:
        return
    columns = [(evaluation.numbers(), evaluation.intervals()) for _, evaluation in evaluated]
    yield table(
        ["", *(name for name, _ in evaluated)],
        [
            [words(name), *(_other(found.get(name), spread.get(name)) for found, spread in columns)]
            for name in dict.fromkeys(name for found, _ in columns for name in found)
        ],
        caption="; ".join(
            f"{name}: {evaluation.kind}, split {evaluation.split}, after {evaluation.epoch} epochs"
            for name, evaluation in evaluated
        ),
    )


def provenance(runs: Sequence[RunSummary]) -> Iterator[str]:
    """Show the teachers, datasets and code behind the runs."""
    rows = []
    for run in runs:
        on, starts = run.made_by.trained_on, run.made_by.starts
        code = [start.commit[:12] if start.commit else start.teachonce for start in starts[-1:]]
        device = [f"{start.processes} x {start.device}" for start in starts[-1:]]
        began = [start.at for start in starts[:1]]
        rows += [
            [
                run.name if one is on else "",
                Cell(f"{one.teacher.name}, {one.teacher.precision}", one.teacher.weights[:24]),
                Cell(f"{one.clips} clips", one.digest[:12]),
                *("".join(texts) if one is on else "" for texts in (began, code, device)),
            ]
            for one in (on, *on.joined)
        ]
    yield table(["run", "teacher", "dataset", "began", "code", "device"], rows, texts=6)


def _other(value: float | None, interval: Interval | None) -> Cell:
    """Return a number, or a count, of unknown size."""
    if value is None:
        return Cell("-")
    return Cell(f"{value:.4g}", " to ".join(f"{end:.4g}" for end in interval or ()))


def _estimate(estimate: Estimate, digits: int = 3, factor: float = 1.0) -> Cell:
    return _cell(estimate.value, estimate.interval, digits, factor)


def _cell(value: float | None, interval: Interval | None, digits: int = 3, factor: float = 1.0) -> Cell:
    if interval is None:
        return Cell(shown(value, digits, factor))
    low, high = (shown(end, digits, factor) for end in interval)
    return Cell(shown(value, digits, factor), f"{low} to {high}")

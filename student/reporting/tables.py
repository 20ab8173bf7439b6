"""The tables of a report."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from student.open_loop.bootstrap import CONFIDENCE, RESAMPLES
from student.open_loop.collisions import VARIANTS
from student.open_loop.evaluation import By, Estimate, Evaluation, Interval, shown
from student.open_loop.metrics import COLUMNS, RATE_COLUMNS
from student.reporting.html import Cell, paragraph, table
from student.reporting.run_summary import GROUP_L2, GROUP_RATE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from student.reporting.run_summary import Findings


def overview(runs: Sequence[Findings]) -> Iterator[str]:
    """One row a run: how far, how good, and how its recipe differs."""
    head = [
        "run",
        "recipe",
        "epochs",
        "steps",
        "loss, train",
        "loss, val",
        "L2, m",
        "collisions, %",
        "cosine",
    ]
    yield table(head, [_summary(run, _differing(runs)) for run in runs], texts=2)
    yield paragraph(
        "Losses are the last epoch's. L2 is the student's mean up to 1, 2 and 3 s, collisions are its steps "
        "whose box overlaps another road user's (corrected variant), both in the complete mask; cosine is of "
        "its planning token with the teacher's.",
        quiet=True,
    )
    if len({run.evaluation and (run.evaluation.split, run.evaluation.clips) for run in runs}) > 1:
        yield paragraph("These runs were not all evaluated on the same clips: their errors do not compare.")


def _summary(run: Findings, differing: Sequence[str]) -> list[Cell | str]:
    recipe = run.made_by.config.model_dump(mode="json")
    what = ", ".join(f"{_words(name)} {_brief(recipe[name])}" for name in differing) or "-"
    cells: list[Cell | str] = [run.name, what]
    if run.epochs:
        last = run.epochs[-1]
        cells += [str(last.epoch), str(last.step)]
        cells += [shown(terms.get("total")) for terms in (last.train, last.val or {})]
    else:
        cells += ["-"] * 4
    found = run.evaluation
    if found is None:
        return [*cells, "-", "-", "-"]
    intervals = found.interval["student"]["complete"]
    hits = found.collision["student"]["complete"] if found.collision else {}
    return [
        *cells,
        _cell(found.l2_m["student"]["complete"][GROUP_L2], intervals[GROUP_L2]),
        _cell(hits.get(GROUP_RATE), intervals.get(GROUP_RATE), 2, 100),
        _estimate(found.token.cosine),
    ]


def _differing(runs: Sequence[Findings]) -> list[str]:
    """Fields of the recipe that are not the same in all runs."""
    recipes = [run.made_by.config.model_dump(mode="json") for run in runs]
    return [name for name in recipes[0] if any(recipe[name] != recipes[0][name] for recipe in recipes)]


def _brief(value: Any) -> str:
    """A field of a recipe; of objectives, their names and options."""
    if not isinstance(value, dict):
        return json.dumps(value)
    return " + ".join(f"{name} {_brief(more)}".strip() for name, more in value.items())


def errors(found: Evaluation) -> Iterator[str]:
    """All drivers, by distance and by collisions."""
    counted = ", ".join(f"{count} in the {mask} mask" for mask, count in found.frames.items())
    yield paragraph(
        f"Split {found.split}, {len(found.clips)} clips, after {found.epoch} epochs; frames with a whole "
        f"truth: {counted}. In small print: {CONFIDENCE:.0%} intervals by {RESAMPLES} bootstrap resamples of "
        "whole clips."
    )
    yield table(
        ["driver", "mask", *(column.replace("_", " ") for column in COLUMNS)],
        [
            [
                _words(driver),
                mask,
                *(_cell(row[name], found.interval[driver][mask][name]) for name in COLUMNS),
            ]
            for driver, masks in found.l2_m.items()
            for mask, row in masks.items()
            if found.frames[mask]
        ],
        caption="L2 in metres: averaged up to a horizon (ORION, VAD, Bench2Drive), and at it (UniAD)",
        texts=2,
    )
    if found.collision:
        yield table(
            ["driver", "variant", *RATE_COLUMNS],
            [
                [_words(driver), _words(variant), *_rates(found, driver, variant)]
                for driver in found.collision
                for variant in VARIANTS
            ],
            caption="Steps that collide, in percent, complete mask: as published (parity), and corrected",
            texts=2,
        )
    for missing in found.missing:
        yield paragraph(missing)


def _rates(found: Evaluation, driver: str, variant: str) -> Iterator[Cell]:
    row, intervals = found.collision[driver]["complete"], found.interval[driver]["complete"]
    for column in RATE_COLUMNS:
        name = f"{variant}_{column}"
        yield _cell(row[name], intervals[name], 2, 100)


def group(by: By, found: Evaluation) -> Iterator[str]:
    """All drivers, in every group."""
    hit = [GROUP_RATE] if found.collision else []
    yield table(
        [
            by,
            "clips",
            "frames",
            *map(_words, found.l2_m),
            *(f"{_words(driver)}, %" for driver in found.collision),
        ],
        [
            [
                there.name,
                str(there.clips),
                str(there.frames),
                *(_estimate(means[GROUP_L2]) for means in there.means.values()),
                *(_estimate(means[name], 2, 100) for name in hit for means in there.means.values()),
            ]
            for there in found.groups
            if there.by == by
        ],
        caption="Mean L2 up to 1, 2 and 3 s in metres, then steps that collide (corrected variant)",
    )


def provenance(runs: Sequence[Findings]) -> Iterator[str]:
    """Say whose word and what code made the runs."""
    rows = []
    for run in runs:
        on, starts = run.made_by.trained_on, run.made_by.starts
        code = [start.commit[:12] if start.commit else start.teachonce for start in starts[-1:]]
        device = [f"{start.processes} x {start.device}" for start in starts[-1:]]
        began = [start.at for start in starts[:1]]
        teacher = f"{on.teacher.name}, {on.teacher.precision}"
        weights = f"{on.teacher.weights[:24]}"
        rows.append(
            [
                run.name,
                Cell(teacher, weights),
                Cell(f"{on.clips} clips", on.digest[:12]),
                *("".join(said) for said in (began, code, device)),
            ]
        )
    yield table(["run", "teacher", "dataset", "began", "code", "device"], rows, texts=6)


def _estimate(estimate: Estimate, digits: int = 3, factor: float = 1.0) -> Cell:
    return _cell(estimate.value, estimate.interval, digits, factor)


def _cell(value: float | None, interval: Interval | None, digits: int = 3, factor: float = 1.0) -> Cell:
    if interval is None:
        return Cell(shown(value, digits, factor))
    low, high = (shown(end, digits, factor) for end in interval)
    return Cell(shown(value, digits, factor), f"{low} to {high}")


def _words(name: str) -> str:
    return name.replace("_", " ")

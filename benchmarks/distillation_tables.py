"""Tables of open-loop errors: means over seeds, paired differences, and what they say of a teacher.

An interval over clips is a 95 % percentile bootstrap over whole held-out clips, of means over seeds; both
sides of a difference are resampled together. One over seeds is Student's, of the differences between equal
seeds. A difference is told as one where both exclude zero. Neither speaks of other clips to learn from.

Dimension letters: S seed, N frame.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rich.table import Table
from scipy.special import stdtrit

from student.open_loop.bootstrap import CONFIDENCE, Interval, means

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

TRAJECTORY, MIMIC, BOTH = "trajectory", "mimic", "both"
"""What a student learns from: the expert's trajectory, the teacher's planning token, or both."""
HEADINGS = (
    *("policy", "learned from, clips", "seeds", "L2, m", "95 % over clips", "lowest, highest seed"),
    *("against", "difference, m", "95 % over clips", "95 % over seeds"),
)


class Row(NamedTuple):
    """A policy's mean distance to the expert in metres, over all steps up to 3 s, on the held-out clips."""

    name: str
    clips: int | None
    """Clips that it learned from; None for what is not trained here."""
    seeds: list[float]
    """Mean of each seed."""
    l2_m: float
    """Mean of these."""
    interval: Interval | None
    """None for a single held-out clip."""
    against: str | None = None
    """What it is compared with: the row of that name, learned from as many clips."""
    difference_m: float | None = None
    """Below zero where it is better than that."""
    over_clips: Interval | None = None
    """Of the difference."""
    over_seeds: Interval | None = None
    """Likewise; None for a single seed."""


def compare(
    name: str,
    errors: np.ndarray,
    clip_of: np.ndarray,
    *,
    clips: int | None = None,
    against: tuple[str, np.ndarray] | None = None,
) -> Row:
    """Return the row of a policy.

    Args:
        name: Its name.
        errors: (S, N) distances in metres.
        clip_of: (N) the held-out clip of each frame.
        clips: Clips that it learned from.
        against: Name and distances (S, N) of another, of the same seeds and frames.
    """
    columns = [errors.mean(axis=0)]
    if against is not None:
        columns.append(columns[0] - against[1].mean(axis=0))
    counted = np.ones(len(clip_of), dtype=bool)
    own, *difference = means(np.stack(columns, axis=1).astype(np.float64), counted, clip_of)
    seeds = errors.mean(axis=1, dtype=np.float64)
    row = Row(name, clips, seeds.tolist(), own.value, own.interval)
    if against is None:
        return row
    return row._replace(
        against=against[0],
        difference_m=difference[0].value,
        over_clips=difference[0].interval,
        over_seeds=over_seeds(seeds - against[1].mean(axis=1)),
    )


def over_seeds(values: np.ndarray) -> Interval | None:
    """Return Student's interval of the mean of values (S); None of one alone."""
    count = len(values)
    if count < 2:
        return None
    quantile = stdtrit(count - 1, (1 + CONFIDENCE) / 2)
    mean, half = float(values.mean()), float(quantile * values.std(ddof=1) / math.sqrt(count))
    return mean - half, mean + half


def verdict(row: Row) -> str:
    """Return what a difference of errors says of what made it."""
    if row.over_clips is None or row.over_seeds is None:
        return "is measured too little to tell"
    if max(*row.over_clips, *row.over_seeds) < 0:
        return "helps"
    return "hurts" if min(*row.over_clips, *row.over_seeds) > 0 else "shows no difference"


def sentence(rows: Iterable[Row], name: str) -> str:
    """Say whether students of this name are better than those of the trajectory alone, at each size."""
    told = [
        f"{verdict(row)} with {row.clips} clips to learn from ({_change(row)})"
        for row in rows
        if row.name == name and row.against == TRAJECTORY
    ]
    what = {BOTH: "Imitating the teacher besides", MIMIC: "Imitating the teacher in place of"}[name]
    return f"{what} learning the trajectory {', '.join(told[:-1])}{' and ' * (len(told) > 1)}{told[-1]}."


def _change(row: Row) -> str:
    assert row.difference_m is not None
    before = row.l2_m - row.difference_m
    spreads = (
        f"95 % {_interval(interval, '+')} over {what}"
        for interval, what in ((row.over_clips, "clips"), (row.over_seeds, "seeds"))
        if interval is not None
    )
    change = f"{row.difference_m:+.3f} m or {row.difference_m / before:+.0%}"
    return ", ".join((f"{row.l2_m:.3f} m instead of {before:.3f} m: {change}", *spreads))


def cells(row: Row) -> Iterator[str]:
    """Yield a row as texts, one for each of ``HEADINGS``."""
    seeds = len(row.seeds)
    yield row.name
    yield "" if row.clips is None else str(row.clips)
    yield "" if row.clips is None else str(seeds)
    yield f"{row.l2_m:.3f}"
    yield _interval(row.interval)
    yield "" if seeds == 1 else _interval((min(row.seeds), max(row.seeds)))
    yield row.against or ""
    yield "" if row.difference_m is None else f"{row.difference_m:+.3f}"
    yield "" if row.difference_m is None else _interval(row.over_clips, "+")
    yield "" if row.difference_m is None else _interval(row.over_seeds, "+")


def _interval(interval: Sequence[float] | None, sign: str = "") -> str:
    return "-" if interval is None else " to ".join(f"{end:{sign}.3f}" for end in interval)


def as_table(title: str, rows: Iterable[Row]) -> Table:
    """Return the rows for a terminal."""
    table = Table(*HEADINGS, title=title, title_justify="left")
    for row in rows:
        table.add_row(*cells(row))
    return table


def as_markdown(title: str, rows: Iterable[Row]) -> str:
    """Return the rows as a table in Markdown."""
    lines = [HEADINGS, ["---"] * len(HEADINGS), *(tuple(cells(row)) for row in rows)]
    return "".join((f"**{title}**\n\n", *(f"| {' | '.join(line)} |\n" for line in lines)))


def document(content: Mapping[str, Any]) -> str:
    """Return the tables of a record, and what they say, as a part of a page in Markdown."""
    tables = (as_markdown(title, (Row(**row) for row in rows)) for title, rows in content["tables"].items())
    source = (
        f"{content['clips']['held out']} held-out clips of {content['frames']} frames; {content['teacher']}, "
        f"weights `{content['weights']}`; {content['hardware']}."
    )
    return "\n".join((*(f"{said}\n" for said in content["in words"].values()), *tables, f"{source}\n"))

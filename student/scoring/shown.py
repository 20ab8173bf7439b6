"""Tables and notes, for a terminal and for a page."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rich import box
from rich.console import Group
from rich.table import Table

from student.scoring.statistics import CONFIDENCE, RESAMPLES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from student.scoring.abilities import Count
    from student.scoring.statistics import Interval

INTERVALS = (
    f"Intervals of {CONFIDENCE:.0%}: {RESAMPLES} bootstrap resamples of routes, or of whole scenario types; "
    "Wilson's for success over routes."
)
LISTED = 12
"""Names that are written out before the others are only counted."""


class Shown(NamedTuple):
    """One table, whoever draws it."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    """The first column is text, the others are numbers."""


def on_terminal(shown: Iterable[Shown], notes: Iterable[str]) -> Group:
    """Draw tables and notes for a terminal."""
    parts: list[Table | str] = []
    for one in shown:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        for number, heading in enumerate(one.head):
            table.add_column(heading, justify="right" if number else "left", overflow="fold")
        for row in one.rows:
            table.add_row(*row)
        parts += [one.title, table, ""]
    return Group(*parts, *notes)


def named(names: Sequence[str]) -> str:
    """Return how many there are, and the first of them."""
    more = f", and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{len(names)} ({', '.join(names[:LISTED])}{more})"


def number(value: float | None, factor: float = 1) -> str:
    """Return a number with two decimals, or a dash."""
    return "-" if value is None else f"{factor * value:.2f}"


def ends(interval: Interval | None, factor: float = 1) -> str:
    """Return both ends, or a dash."""
    return "-" if interval is None else "..".join(f"{factor * end:.1f}" for end in interval)


def fraction(count: Count) -> str:
    """Return how many of how many."""
    return f"{count.well}/{count.of}"


def words(name: str) -> str:
    """Return a name as it is shown."""
    return name.replace("_", " ")

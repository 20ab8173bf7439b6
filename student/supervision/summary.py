"""What a folder of results holds: routes with a record, routes without, and how many attempts it took."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from student.supervision.outcomes import History

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from rich.table import Table

    from student.supervision.routes import Route


@dataclass(frozen=True)
class Driven:
    """The state of a folder of results."""

    results: Path
    statuses: dict[str, str]
    """Of the routes that were driven until they ended, by id."""
    unfinished: dict[str, str]
    """The other routes, by id: how the last attempt ended."""
    attempts: dict[str, int]
    """That count, by id."""
    ends: dict[str, int]
    """Attempts by outcome."""

    def __rich__(self) -> Table:
        from cache_schema.terminal import table

        shown = table("routes", "", title=str(self.results))
        for status, number in Counter(self.statuses.values()).most_common():
            shown.add_row(status, str(number))
        for name, outcome in self.unfinished.items():
            shown.add_row(f"not driven to an end: {name}", outcome)
        shown.add_row("all", str(len(self.statuses) + len(self.unfinished)), end_section=True)
        shown.add_row("attempts", ", ".join(f"{number} {way}" for way, number in sorted(self.ends.items())))
        for name, number in self.attempts.items():
            if number > 1:
                shown.add_row(f"attempts at {name}", str(number))
        return shown


def summarise(results: Path, routes: Iterable[Route]) -> Driven:
    """Return the state of a folder of results."""
    history = History(results)
    statuses, unfinished = {}, {}
    for name in (route.id for route in routes):
        status = history.status(name)
        if status is not None and history.is_done(name):
            statuses[name] = status
        else:
            unfinished[name] = history.last.get(name, "not begun")
    return Driven(results, statuses, unfinished, dict(history.counts), dict(history.ends))

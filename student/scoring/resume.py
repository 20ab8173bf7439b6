"""Where Bench2Drive's own ``--resume`` goes on from a checkpoint, by the rules of its version 0.0.3.

It goes back to the first route that crashed, and drives everything behind it again, good routes, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from student.scoring.records import CRASHED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from student.scoring.records import ResultFile

DRIVEN_AGAIN = ("Failed", CRASHED, "Failed - Agent crashed")
"""Statuses that it goes back to."""


class Stopped(BaseModel):
    """A file of several routes whose evaluation did not come to its end."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    done: int
    routes: int
    resumes_at: int
    """Number of the route, from 0, from which ``--resume`` would go on."""
    again: int
    """Routes driven to an end that it would drive again."""


def stopped(files: Mapping[str, ResultFile]) -> Iterator[Stopped]:
    """Return the files that end before their evaluation, and what resuming them would do."""
    for name, file in files.items():
        done, routes = file.checkpoint.progress
        driven = [(drive.route_id, drive.status) for drive in file.checkpoint.records]
        if routes < 2 or (done == routes == len(driven) and file.entry_status != "Crashed"):
            continue
        # What it had yet to drive is not known, and not compared.
        planned = [*(name for name, _ in driven), *[""] * (routes - len(driven))]
        next_route = resumes_at(file.entry_status, (done, routes), driven, planned)
        if next_route is not None:
            again = sum(status not in DRIVEN_AGAIN for _, status in driven[next_route:])
            yield Stopped(file=name, done=done, routes=routes, resumes_at=next_route, again=again)


def resumes_at(
    entry_status: str,
    progress: tuple[int, int],
    driven: Sequence[tuple[str, str]],
    planned: Sequence[str],
) -> int | None:
    """Return the number of the next route, from 0; None where it does not resume, but starts over.

    Args:
        entry_status: Of the checkpoint.
        progress: How many routes it has done, and of how many.
        driven: Id with repetition, and status, of every record.
        planned: The same ids of the evaluation that is to resume, in its order.
    """
    done, total = progress
    if entry_status in ("", "Invalid") or total != len(planned):
        return None
    known = list(zip(planned, driven, strict=False))[:done]
    # Where fewer routes are recorded than were counted, the last of them is driven again.
    next_route = done if len(known) == done else max(len(known) - 1, 0)
    for number, (plan, (name, status)) in enumerate(known):
        if name != plan:
            return None
        if status in DRIVEN_AGAIN:
            next_route = number
            break
    return max(0, next_route - 1) if entry_status == "Crashed" else next_route

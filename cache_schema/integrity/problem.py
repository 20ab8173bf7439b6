"""One thing in a dataset that is not as promised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cache_schema.errors import TeachonceError
from cache_schema.terminal import table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.table import Table


@dataclass(frozen=True)
class Problem:
    """One thing that is not as promised."""

    clip: str | None
    """Clip that it concerns; None for the dataset as a whole."""
    feature: str | None
    """Feature that it concerns; None for the clip as a whole."""
    what: str
    """What is wrong."""
    weight: Literal["damage", "foreign", "note"] = "damage"
    """Damage: a file is not as it was written, or one that was never written has a name that readers use.
    Foreign: something else lies there, which no reader looks at; a clip that it lies in is whole. A note: an
    operating system or a writer at work has left it there, and nothing needs to be done."""


def problem_table(problems: Iterable[Problem], title: str) -> Table:
    """Return problems as a table."""
    shown = table("clip", "feature", "what is wrong", title=title)
    for problem in problems:
        shown.add_row(problem.clip or "(dataset)", problem.feature or "", problem.what)
    return shown


def reason_of(error: Exception) -> str:
    """Return what happened, without the advice of the error."""
    return error.happened if isinstance(error, TeachonceError) else str(error)

"""Under what an evaluation was driven, which a score depends on as much as on the weights.

Beside the results may lie ``conditions.json``, an object with the fields of ``Recorded``, and
``attempts.jsonl``, a line ``{"route": ...}`` for each time that a route was begun.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from cache_schema.errors import RequestError

if TYPE_CHECKING:
    from pathlib import Path

CONDITIONS, ATTEMPTS = "conditions.json", "attempts.jsonl"


class Recorded(BaseModel):
    """What only the evaluation itself can tell; None where it did not."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    mode: str | None = None
    """``parity`` or ``corrected``: what the student was shown."""
    every: int | None = None
    """Ticks of 1/20 s from one run of the network to the next."""
    gpu: str | None = None
    server: str | None = None
    """Version of CARLA."""
    client: str | None = None
    """Version of the Python package ``carla``."""
    student: str | None = None


class Conditions(Recorded):
    """What is known, and how often routes were begun."""

    attempts: int | None = None
    """Of all routes."""
    repeated: tuple[str, ...] = ()
    """Routes that were begun more than once."""


class _Attempt(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    route: str


def read_conditions(results: Path) -> Conditions:
    """Read what lies beside the results.

    Raises:
        RequestError: A file is damaged.
    """
    folder = results if results.is_dir() else results.parent
    told, attempts = folder / CONDITIONS, folder / ATTEMPTS
    begun: list[str] = []
    try:
        read = Recorded.model_validate_json(told.read_bytes()) if told.is_file() else Recorded()
        if attempts.is_file():
            lines = attempts.read_text("utf-8").splitlines()
            begun = [_Attempt.model_validate_json(line).route for line in lines if line.strip()]
    except (ValidationError, UnicodeDecodeError) as error:
        raise RequestError(
            f"the conditions of the evaluation in {folder} cannot be read: {error}",
            expected=f"{CONDITIONS} and {ATTEMPTS} as `teachonce drive` writes them, or neither",
            repair="move the damaged file away",
        ) from error
    again = tuple(route for route in dict.fromkeys(begun) if begun.count(route) > 1)
    return Conditions(
        **read.model_dump(), attempts=len(begun) if attempts.is_file() else None, repeated=again
    )

"""Under what an evaluation was driven, which a score depends on as much as on the weights.

Beside the results may lie ``drive.json``, an object with what was served and where it drove, and
``attempts.jsonl``, with a line of ``"event": "began"`` and ``"route"`` for each time that a route was begun.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from cache_schema.errors import RequestError
from cache_schema.storage.json_lines import read_json_lines

if TYPE_CHECKING:
    from pathlib import Path

CONDITIONS, ATTEMPTS = "drive.json", "attempts.jsonl"
WANTED = ("mode", "every", "gpu", "carla_server", "carla_client")
"""Fields whose absence is told: what the student was shown, ticks between two runs of its network, the GPU,
and the versions of the simulator and of its Python package."""

_OBJECT = TypeAdapter(dict[str, Any])


class Conditions(BaseModel):
    """What is known of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    told: dict[str, Any]
    """The content of ``drive.json``."""
    attempts: int | None
    """How often routes were begun; None where that was not recorded."""
    repeated: dict[str, int]
    """Attempts at the routes that were begun more than once."""


def read_conditions(results: Path) -> Conditions:
    """Read what lies beside the results.

    Raises:
        RequestError: A file is damaged.
    """
    folder = results if results.is_dir() else results.parent
    told, log = folder / CONDITIONS, folder / ATTEMPTS
    try:
        known = _OBJECT.validate_json(told.read_bytes()) if told.is_file() else {}
    except ValidationError as error:
        raise RequestError(
            f"the conditions of the evaluation, {told}, cannot be read: {error.errors()[0]['msg']}",
            expected="a JSON object, as `teachonce drive` writes it, or no such file",
            repair="restore the file, or move it away",
        ) from error
    lines = read_json_lines(log, ("event", "route"))
    begun = Counter(str(line["route"]) for line in lines if line["event"] == "began")
    return Conditions(
        told=known,
        attempts=begun.total() if log.is_file() else None,
        repeated={route: count for route, count in begun.items() if count > 1},
    )

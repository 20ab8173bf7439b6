"""Where a run's numbers are shown beside its own log: TensorBoard, trackio or Weights & Biases."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Literal, get_args

from cache_schema.errors import RequestError
from student.flatten import flatten

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Tracker = Literal["tensorboard", "trackio", "wandb"]


def choose_trackers(requested: Sequence[str] | None) -> tuple[str, ...]:
    """Return the requested trackers; by default TensorBoard, where it is installed.

    Raises:
        RequestError: One is unknown or not installed.
    """
    if requested is None:
        return ("tensorboard",) if _installed("tensorboard") else ()
    for name in requested:
        if name not in get_args(Tracker) or not _installed(name):
            raise RequestError(
                f"the tracker {name!r} is " + ("not installed" if name in get_args(Tracker) else "unknown"),
                expected=f"any of {', '.join(get_args(Tracker))}, installed beside this program",
                repair=f"`pip install {name}`, or leave it out: the run's own log.jsonl is always written",
            )
    return tuple(requested)


def flat(line: Mapping[str, object]) -> dict[str, float]:
    """Return the numbers of a log line as ``epoch/train/total`` and so on, for a tracker."""
    values = flatten(line, "/").items()
    return {f"{line['kind']}/{name}": value for name, value in values if isinstance(value, float)}


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None

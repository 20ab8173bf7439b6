"""The log of a training run: a JSON line for every epoch, and for every so many steps."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Self

from cache_schema.storage.atomic_io import write_durably

if TYPE_CHECKING:
    from pathlib import Path

NAME = "log.jsonl"
"""The log's file, in the folder of the run."""


class RunLog:
    """Adds lines to a run's log. Use it as a context manager.

    Args:
        run: Folder of the run.
        done: Steps that the run resumes from; lines of later ones are removed, to be written again.
    """

    def __init__(self, run: Path, *, done: int) -> None:
        self.path = run / NAME
        kept = [line for line in read_log(run) if line["step"] <= done]
        write_durably(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def __enter__(self) -> Self:
        self._file = self.path.open("a")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, line: dict[str, Any]) -> None:
        """Add one line."""
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def read_log(run: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log; lines that a kill cut short, or a disk damaged, are left out."""
    path = run / NAME
    if not path.exists():
        return []
    lines = [_parsed(line) for line in path.read_text(errors="replace").splitlines()]
    return [line for line in lines if line is not None]


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        parsed = json.loads(line)
    except ValueError:
        return None
    complete = isinstance(parsed, dict) and {"kind", "epoch", "step"} <= parsed.keys()
    return parsed if complete else None

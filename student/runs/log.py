"""The log of a training run: a JSON line for every epoch, and for every so many steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cache_schema.storage.atomic_io import write_durably
from cache_schema.storage.json_lines import JsonLines, as_line, read_json_lines

if TYPE_CHECKING:
    from pathlib import Path

NAME = "log.jsonl"
"""The log's file, in the folder of the run."""


class RunLog(JsonLines):
    """Adds lines to a run's log. Use it as a context manager.

    Args:
        run: Folder of the run.
        done: Steps that the run resumes from; lines of later ones are removed, to be written again.
    """

    def __init__(self, run: Path, *, done: int) -> None:
        super().__init__(run / NAME)
        kept = [line for line in read_log(run) if line["step"] <= done]
        write_durably(self.path, b"".join(map(as_line, kept)))


def read_log(run: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log; lines that a kill cut short, or a disk damaged, are left out."""
    lines = read_json_lines(run / NAME, ("kind", "epoch", "step"))
    return [line for line in lines if isinstance(line["step"], int)]

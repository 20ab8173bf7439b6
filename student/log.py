"""What a run says: a JSON line for every epoch and now and then a step, and a bar or plain lines to watch."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cache_schema.durable import write_durably

if TYPE_CHECKING:
    from pathlib import Path


PLAIN_EVERY_S = 15.0
"""Seconds between plain lines: often enough to be watched, seldom enough for a day's log."""


class RunLog:
    """Writes ``RUN/log.jsonl`` and shows progress. Use it as a context manager.

    Args:
        run: Folder of the run.
        done: Epochs that the run already has; lines of later ones are of an interrupted epoch and go.
        steps: Steps that remain.
        console: Where to show progress; standard error by default.
    """

    def __init__(self, run: Path, *, done: int, steps: int, console: Console | None = None) -> None:
        self.path = run / "log.jsonl"
        self.steps, self.steps_done = steps, 0
        self.console = console or Console(stderr=True)
        kept = [line for line in read_log(run) if line["epoch"] <= done]
        write_durably(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("train", total=steps, status="")

    def __enter__(self) -> Self:
        self._file = self.path.open("a")
        self._began = self._said = time.monotonic()
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        self._file.close()

    def advance(self, status: str) -> None:
        """Count a step; ``status`` says where it belongs."""
        self.steps_done += 1
        self._bar.update(self._task, advance=1, status=status)
        now = time.monotonic()
        if not self.console.is_terminal and now - self._said >= PLAIN_EVERY_S:
            self._said = now
            rate = self.steps_done / max(now - self._began, 1e-9)
            left_s = (self.steps - self.steps_done) / rate
            self.say(
                f"train: {self.steps_done}/{self.steps} steps, {rate:.1f}/s, {left_s:.0f} s left; {status}"
            )

    def write(self, line: dict[str, Any]) -> None:
        """Add one line to the file."""
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def say(self, text: str) -> None:
        """Show a line that stays, above the bar."""
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)


def read_log(run: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log; a last line that a kill cut short is left out."""
    path = run / "log.jsonl"
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]

"""What a long run shows: a bar on a terminal, a plain line every so often elsewhere."""

from __future__ import annotations

import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_EVERY_S = 15.0
"""Seconds between plain lines: often enough to be watched, seldom enough for a day's log."""


class FrameProgress:
    """Counts frames of a run of known length. Use it as a context manager.

    Args:
        total: Frames that the run will see.
        what: Verb in front of the bar.
        console: Where to write; standard error by default.
    """

    def __init__(self, total: int, what: str, console: Console | None = None) -> None:
        self.total = total
        self.what = what
        self.console = console or Console(stderr=True)
        self.frames = 0
        self._status = ""
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task(what, total=total, status="")

    def __enter__(self) -> Self:
        self._begun = self._said = time.monotonic()
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        if not self.console.is_terminal and self.total:
            self._line()

    def reach(self, frames: int, status: str) -> None:
        """Say how many frames are done by now; ``status`` tells waits and errors in a few words."""
        self.frames = frames
        self._status = status
        self._bar.update(self._task, completed=frames, status=status)
        if not self.console.is_terminal and time.monotonic() - self._said >= PLAIN_EVERY_S:
            self._line()

    def drop(self, frames: int) -> None:
        """Leave out frames that will not come."""
        self.total -= frames
        self._bar.update(self._task, total=self.total)

    def say(self, text: str) -> None:
        """Write a line that stays, above the bar."""
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _line(self) -> None:
        self._said = time.monotonic()
        rate = self.frames / max(self._said - self._begun, 1e-9)
        left = f"{(self.total - self.frames) / rate:.0f} s" if rate else "unknown time"
        line = f"{self.what}: {self.frames}/{self.total} frames, {rate:.1f}/s, {left} left; {self._status}"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

"""What a training run shows: a bar on a terminal, a plain line every so often elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from collections.abc import Mapping

PLAIN_EVERY_S = 15.0
"""Seconds between plain lines: often enough to be watched, seldom enough for a day's log."""


class StepProgress:
    """Counts steps of a run of known length. Use it as a context manager.

    Args:
        total: Steps that remain.
        console: Where to write; standard error by default.
        plain_every_s: Seconds between plain lines.
    """

    def __init__(
        self, total: int, *, console: Console | None = None, plain_every_s: float = PLAIN_EVERY_S
    ) -> None:
        self.total, self.steps, self.plain_every_s = total, 0, plain_every_s
        self.console = console or Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("train", total=total, status="")

    def __enter__(self) -> Self:
        self._began = self._said = time.monotonic()
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, status: str) -> None:
        """Count a step; ``status`` says where it belongs."""
        self.steps += 1
        self._bar.update(self._task, advance=1, status=status)
        now = time.monotonic()
        if not self.console.is_terminal and now - self._said >= self.plain_every_s:
            self._said = now
            rate = self.steps / max(now - self._began, 1e-9)
            left_s = (self.total - self.steps) / rate
            self.say(f"train: {self.steps}/{self.total} steps, {rate:.1f}/s, {left_s:.0f} s left; {status}")

    def say(self, text: str) -> None:
        """Show a line that stays, above the bar."""
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)


def epoch_line(
    epoch: int, epochs: int, train: Mapping[str, float], val: Mapping[str, float] | None, seconds: float
) -> str:
    """Return the line that stays of an epoch: its means, and those of the held-out frames."""

    def shown(terms: Mapping[str, float]) -> str:
        return " ".join(f"{name} {value:.4g}" for name, value in terms.items())

    held_out = "" if val is None else f" | val {shown(val)}"
    return f"epoch {epoch}/{epochs} in {seconds:.1f} s: train {shown(train)}{held_out}"

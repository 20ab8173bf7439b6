"""The terminal of all commands: consoles, shared options, tables, and the progress bar."""

from __future__ import annotations

import enum
import os
import re
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer
from rich.console import Console
from rich.segment import Segment
from rich.table import Table

from cache_schema.errors import RequestError
from cache_schema.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import ConsoleOptions, RenderableType
    from rich.text import Text

    from cache_schema.errors import LeftOut

FOUND, USER_ERROR, INTERRUPTED = 1, 2, 130
"""Exit codes: a check found something; the user can correct it; Ctrl-C. A bug keeps its traceback."""
PLAIN_EVERY_S = 15.0
"""Seconds between plain lines: often enough to be watched, seldom enough for a day's log."""

UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that steer a terminal or turn the direction of text, and halves of characters."""


def visible(text: str) -> str:
    r"""Return text of an unknown source as a terminal may show it: what steers it becomes ``\u001b``.

    What JSON holds stays JSON of the same content.
    """
    return UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class SafeConsole(Console):
    """A console for text of other sources: it is no markup, and moves no cursor.

    Args:
        options: Those of ``rich.console.Console``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, highlight=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as it may be shown; here, so that layouts know its length."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield segments of text as they may be shown; control codes are rich's own."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


out = SafeConsole()
err = SafeConsole(stderr=True)


class Split(enum.StrEnum):
    """Sides of the train/validation split."""

    TRAIN = "train"
    VAL = "val"
    ALL = "all"


DatasetPath = Annotated[Path, typer.Argument(metavar="DATASET.zarr", help="Folder of the latent dataset.")]
DatasetUrl = Annotated[
    str, typer.Argument(metavar="DATASET.zarr", help="Folder or URL of the latent dataset.")
]
SplitChoice = Annotated[Split, typer.Option("--split", help="Which clips.")]
Device = Annotated[str | None, typer.Option(help="Torch device; a GPU if there is one.")]


def torch_device(name: str | None) -> str:
    """Return the device that was asked for; without a name, the best that is available.

    Raises:
        RequestError: The device is not available.
    """
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise RequestError(
            f"the device {name!r} cannot be used: {str(error).splitlines()[0]}",
            expected="cpu, or cuda on a machine with a GPU and a build of torch for it",
            repair="name another device, or none",
        ) from error
    return name


def is_first_process() -> bool:
    """Return whether this is the one of the processes of ``torchrun`` that prints results."""
    return os.environ.get("RANK", "0") in ("", "0")


def given(value: Any, option: str, target: Path) -> Any:
    """Return the value of an option that a file of this kind needs.

    Raises:
        RequestError: It is None.
    """
    if value is None:
        raise RequestError(
            f"{option} is missing",
            expected=f"{option} for a file {target.suffix}",
            repair=f"add {option}, or choose another ending",
        )
    return value


def table(first: str, *others: str, title: str | None = None) -> Table:
    """Return an empty table whose first column is never cut."""
    drawn = Table(title=title, title_justify="left")
    # Names of features fit a narrow terminal, names of clips are folded.
    drawn.add_column(first, overflow="fold", no_wrap=first == "feature")
    for other in others:
        drawn.add_column(other, overflow="fold")
    return drawn


def size(nbytes: float) -> str:
    """Return bytes for people, such as 4.33 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 1000:
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:.3g} TB"


def exit_if_left_out(clips: Iterable[LeftOut]) -> None:
    """Show the clips that were left out, if any, and exit with the code for them."""
    shown = table("clip", "why it was left out", "to do")
    for left_out in clips:
        shown.add_row(left_out.clip, left_out.reason, left_out.repair)
    if shown.row_count:
        err.print(shown)
        raise typer.Exit(USER_ERROR)


class ProgressBar(Progress):
    """Shows progress: a bar on a terminal, plain lines elsewhere. Use it as a context manager.

    Args:
        what: Verb in front of the bar.
        unit: What is counted, such as "frames"; "bytes" are shown as sizes.
        total: How many there are in all, if that is known.
        console: Where to write; standard error by default.
        plain_every_s: Seconds between plain lines.
    """

    def __init__(
        self,
        what: str,
        unit: str,
        total: float | None = None,
        *,
        console: Console = err,
        plain_every_s: float = PLAIN_EVERY_S,
    ) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.what, self.unit, self.console, self.plain_every_s = what, unit, console, plain_every_s
        self.done, self.total, self.status = 0.0, total, ""
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[amount]}", markup=False),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}", markup=False),
            console=console,
            disable=not console.is_terminal,
        )
        self._lock = threading.Lock()
        self._task = self._bar.add_task(what, total=total, amount="", status="")

    def __enter__(self) -> Self:
        self._began = self._shown = time.monotonic()
        self._reported: tuple[float, float | None] = (0.0, self.total)
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        if not self.console.is_terminal and self._reported != (self.done, self.total):
            self._line()

    def expect(self, total: float) -> None:
        """See ``Progress``."""
        self.total = total
        self._show()

    def advance(self, amount: float = 1, status: str = "") -> None:
        """See ``Progress``."""
        with self._lock:
            self._reach(self.done + amount, status)

    def reach(self, done: float, status: str = "") -> None:
        """See ``Progress``."""
        with self._lock:
            self._reach(done, status)

    def _reach(self, done: float, status: str) -> None:
        self.done, self.status = done, status
        self._show()
        if not self.console.is_terminal and time.monotonic() - self._shown >= self.plain_every_s:
            self._line()

    def message(self, text: str) -> None:
        """See ``Progress``; the line stays above the bar."""
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _show(self) -> None:
        self._bar.update(
            self._task, completed=self.done, total=self.total, amount=self._amount(), status=self.status
        )

    def _amount(self) -> str:
        if self.unit == "bytes":
            return size(self.done) + ("" if self.total is None else f" of {size(self.total)}")
        return f"{self.done:g}" + ("" if self.total is None else f"/{self.total:g}") + f" {self.unit}"

    def _line(self) -> None:
        self._shown, self._reported = time.monotonic(), (self.done, self.total)
        rate = self.done / max(self._shown - self._began, 1e-9)
        speed = f"{size(rate)}/s" if self.unit == "bytes" else f"{rate:.1f}/s"
        parts = [self._amount(), speed]
        if self.total is not None and rate:
            parts.append(f"{max(self.total - self.done, 0) / rate:.0f} s left")
        line = f"{self.what}: {', '.join(parts)}" + (f"; {self.status}" if self.status else "")
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

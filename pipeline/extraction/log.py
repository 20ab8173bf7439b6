"""The log of extraction runs: one JSON line a clip, in a file beside the dataset."""

from __future__ import annotations

import dataclasses
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from rich.console import Group

from cache_schema.dataset.commit import disk_errors
from cache_schema.errors import RequestError
from cache_schema.storage.json_lines import JsonLines, read_json_lines
from cache_schema.storage.paths import absolute
from cache_schema.terminal import table

if TYPE_CHECKING:
    from pathlib import Path

    from cache_schema.errors import LeftOut
    from pipeline.extraction.worker import ClipResult


def log_path(dataset: Path) -> Path:
    """Return the path of the log of the dataset at ``dataset``."""
    dataset = absolute(dataset)
    return dataset.with_name(f"{dataset.name}.log.jsonl")


class RunLog(JsonLines):
    """Appends to a log. Use it as a context manager."""

    def begin(self, *, workers: int, slots: int, clips: int) -> None:
        """Record that a run begins."""
        self._write("begin", workers=workers, slots=slots, clips=clips)

    def clip(self, result: ClipResult) -> None:
        """Record a clip that is committed."""
        rate = result.frames / result.wall_s if result.wall_s else None
        self._write("clip", **dataclasses.asdict(result), frames_per_second=rate)

    def failure(self, failure: LeftOut) -> None:
        """Record a clip that is left out."""
        self._write("failure", **dataclasses.asdict(failure))

    def end(self, *, wall_s: float) -> None:
        """Record that a run ends."""
        self._write("end", wall_s=wall_s)

    def _write(self, kind: str, **fields: object) -> None:
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with disk_errors(self.path):
            self.write({"kind": kind, "time": at, **fields})


@dataclasses.dataclass(frozen=True)
class LogSummary:
    """What the log of a dataset records of all its runs."""

    runs: int
    clips: int
    frames: int
    retries: int
    failures: dict[str, str]
    """Clips that were left out last time they were tried, and why."""
    busy_s: float
    """Seconds of all workers together, of which the next three are parts."""
    inputs_s: float
    teacher_s: float
    disk_s: float
    workers: dict[str, int]
    """Worker -> clips."""
    slowest: tuple[tuple[str, float], ...]
    """Clips with the fewest frames a second, slowest first."""

    def __rich__(self) -> Group:
        """Show it as lines and tables."""
        busy_s = self.busy_s or 1.0
        slowest = table("slowest clips", "frames/s")
        for clip, rate in self.slowest:
            slowest.add_row(clip, f"{rate:.2f}")
        failed = table("clip", "why it was left out")
        for clip, reason in self.failures.items():
            failed.add_row(clip, reason)
        return Group(
            f"{self.runs} runs, {self.clips} clips, {self.frames:,} frames by {len(self.workers)} workers; "
            f"{self.retries} retries after a worker died",
            f"workers were busy for {self.busy_s:.1f} s: {self.teacher_s / busy_s:.0%} teacher, "
            f"{self.inputs_s / busy_s:.0%} waiting for inputs, "
            f"{self.disk_s / busy_s:.0%} waiting for the disk",
            slowest,
            *([failed] if self.failures else []),
        )


def summarise(path: Path, *, slowest: int = 5) -> LogSummary:
    """Read a log; lines that a kill cut short are skipped.

    Raises:
        RequestError: There is none.
    """
    if not path.is_file():
        raise RequestError(
            f"there is no log {path}",
            expected="the log that `teachonce extract` writes beside the dataset",
            repair="extract into this dataset first; a dataset that was copied alone has no log",
        )
    lines = [_renamed(line) for line in read_json_lines(path, ("kind",))]
    clips = [line for line in lines if line["kind"] == "clip"]
    outcome: dict[str, str | None] = {}
    workers: dict[str, int] = defaultdict(int)
    for line in lines:
        if line["kind"] == "clip":
            outcome[line["clip"]] = None
            workers[line["worker"]] += 1
        elif line["kind"] == "failure":
            outcome[line["clip"]] = line["reason"]
    rates = sorted((line["frames_per_second"] or 0.0, line["clip"]) for line in clips)
    return LogSummary(
        runs=sum(line["kind"] == "begin" for line in lines),
        clips=len(clips),
        frames=sum(line["frames"] for line in clips),
        retries=sum(line["retries"] for line in clips),
        failures={clip: reason for clip, reason in outcome.items() if reason is not None},
        busy_s=sum(line["wall_s"] for line in clips),
        inputs_s=sum(line["inputs_s"] for line in clips),
        teacher_s=sum(line["teacher_s"] for line in clips),
        disk_s=sum(line["disk_s"] for line in clips),
        workers=dict(workers),
        slowest=tuple((clip, rate) for rate, clip in rates[:slowest]),
    )


def _renamed(line: dict[str, Any]) -> dict[str, Any]:
    """A line with the fields of this version; version 0.1.0 called two of them otherwise."""
    names = {"images_s": "inputs_s", "frames_a_second": "frames_per_second"}
    return {names.get(name, name): value for name, value in line.items()}

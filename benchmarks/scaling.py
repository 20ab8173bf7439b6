"""Scaling of extraction: 1 to 64 workers whose teacher only sleeps.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --quick    # one and two workers, short clips: that it runs, in two minutes

Real worker processes on this machine, one dask scheduler, one dataset on its disk. A step sleeps for a fixed
time and no image is opened: what is measured is whether workers wait for each other, for the coordinator, for
the lock of the dataset, or for the disk. Every clip is read, written, flushed and entered in the ledger as
usual. Unlike in a cluster all workers share the cores of one machine, and since their clips are equally long
they need them at the same moments. A clip takes 24 s, about as long as one of Bench2Drive on a fast GPU.

All workers start once, and extract one clip each without sleeping, so that everything is loaded. Then some of
them are stopped before each smaller measurement. They are forked from one process that has the libraries
loaded, because 64 of them would otherwise load 64 copies. dask's profiling and monitoring is off or slowed
down: by default it takes 4 % of a core per worker, which is too much where 64 workers share the cores.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import dask
import psutil
import torch
import typer
from distributed.utils import get_mp_context
from rich.console import Console
from rich.table import Table

from benchmarks.record import Record, hardware
from cache_schema.format.features import FeatureSpec
from cache_schema.format.manifest import TeacherIdentity
from pipeline.bench2drive.source import Bench2Drive
from pipeline.bench2drive.synthetic import write_demo_data
from pipeline.extraction.cluster import extract_on_cluster
from pipeline.extraction.dask_cluster import local_cluster

if TYPE_CHECKING:
    from collections.abc import Sequence

    import distributed
    from torch import Tensor

    from pipeline.bench2drive.source import DrivingSample
    from pipeline.source import Selection

STOP_WITHIN_S = 60
"""Longest time that workers may take to stop."""
SHARED_MACHINE = {
    "distributed.worker.multiprocessing-method": "forkserver",
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "5s",
}
"""Settings of dask for many workers on few cores."""
TARGET = 0.95
"""Efficiency that the largest number of workers should reach."""


class SleepingTeacher:
    """Opens no image, sleeps in each step, and returns zeros; implements ``Teacher``.

    Args:
        step_s: Seconds of a step.
    """

    kind = "driving"
    features: tuple[FeatureSpec, ...] = (
        FeatureSpec(name="zeros", shape=(8,), axes=("channel",), dtype="float16", role="target"),
    )
    identity = TeacherIdentity(name="sleeping", weights="none", precision="none")

    def __init__(self, step_s: float) -> None:
        self.step_s = step_s

    def prepare(self, sample: DrivingSample) -> str:
        """See ``Teacher``."""
        return sample.clip

    def collate(self, inputs: Sequence[str | None]) -> int:
        """Return the number of slots."""
        return len(inputs)

    def begin(self, slots: int) -> None:
        """It has no state."""

    def step(self, batch: int, state: None) -> tuple[dict[str, Tensor], None]:
        """See ``Teacher``."""
        time.sleep(self.step_s)
        return {"zeros": torch.zeros(batch, 8, dtype=torch.float16)}, state

    def assets(self) -> dict[str, dict[str, Tensor]]:
        """Return no assets."""
        return {}


@dataclass(frozen=True)
class Measured:
    """Result of one number of workers."""

    workers: int
    clips: int
    frames: int
    wall_s: float
    """From the first clip that is submitted to the last result."""
    coordinator_s: float
    """Processor time of the main process, which includes the scheduler, for the same clips."""

    @property
    def frames_per_s(self) -> float:
        """Frames per second of all workers together."""
        return self.frames / self.wall_s


def write_clips(root: Path, *, clips: int, frames: int) -> None:
    """Write one synthetic clip, and hard links to it under other names."""
    (original,) = write_demo_data(root, clips=1, frames=frames)
    stem, number = original.name.split("_Route")
    route, weather = number.split("_")
    for index in range(1, clips):
        name = f"{stem}_Route{int(route) + index}_{weather}"
        shutil.copytree(original, original.with_name(name), copy_function=os.link)


def scale_down(client: distributed.Client, workers: int) -> None:
    """Stop all but ``workers`` workers of a cluster."""
    cluster = client.cluster
    assert cluster is not None
    cluster.scale(workers)
    deadline = time.monotonic() + STOP_WITHIN_S
    while len(client.nthreads()) != workers:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(client.nthreads())} workers are left, not {workers}")
        time.sleep(0.1)


def measure(selection: Selection, client: distributed.Client, path: Path, *, step_s: float) -> Measured:
    """Extract every clip of ``selection`` into a new dataset."""
    workers = len(client.nthreads())
    before_s = time.process_time()
    report = extract_on_cluster(selection, lambda: SleepingTeacher(step_s), path, client, slots=1)
    coordinator_s = time.process_time() - before_s
    if report.frames != selection.samples or report.failed:
        raise RuntimeError(f"{report.frames} of {selection.samples} frames were extracted: {report.failed}")
    return Measured(workers, len(selection.clips), report.frames, report.wall_s, coordinator_s)


def memory_bytes() -> int:
    """Return the memory of this process and its descendants; shared memory counts once."""
    this = psutil.Process()
    return sum(process.memory_full_info().pss for process in (this, *this.children(recursive=True)))


def main(
    workers: Annotated[list[int] | None, typer.Option(help="Numbers of workers. [1, 4, 16, 64]")] = None,
    clips: Annotated[int, typer.Option(help="Clips per worker.")] = 3,
    frames: Annotated[int, typer.Option(help="Frames per clip.")] = 8,
    step_s: Annotated[float, typer.Option(help="Seconds that a step sleeps.")] = 3.0,
    quick: Annotated[bool, typer.Option("--quick", help="Few workers, within two minutes.")] = False,
    out: Annotated[Path | None, typer.Option(help="JSON file for the results.")] = None,
) -> None:
    """Time some numbers of workers, and print a row for each."""
    if quick:
        workers, clips, frames, step_s = [1, 2], 2, 4, 1.0
    dask.config.set(SHARED_MACHINE)
    get_mp_context().set_forkserver_preload(["pipeline.extraction.cluster"])
    counts = sorted(workers or [1, 4, 16, 64], reverse=True)
    results = Record("scaling", out, quick=quick, step_s=step_s, frames_a_clip=frames, dask=SHARED_MACHINE)
    measured: list[Measured] = []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "data"
        write_clips(root, clips=counts[0] * clips, frames=frames)
        everything = Bench2Drive(root).select()
        with local_cluster(counts[0]) as client:
            warm_up = dataclasses.replace(everything, clips=everything.clips[: counts[0]])
            measure(warm_up, client, Path(temporary) / "warm_up.zarr", step_s=0.0)
            memory = memory_bytes()
            results.set(
                "memory_bytes", value=memory, line=f"{counts[0]} workers use {memory / 2**30:.1f} GiB"
            )
            for count in counts:
                scale_down(client, count)
                some = dataclasses.replace(everything, clips=everything.clips[: count * clips])
                row = measure(some, client, Path(temporary) / f"{count}.zarr", step_s=step_s)
                measured.insert(0, row)
                # Efficiency is relative to the smallest number so far: that of all comes last.
                rows = [
                    dataclasses.asdict(m)
                    | {"frames_per_s": m.frames_per_s, "efficiency": efficiency(m, measured)}
                    for m in measured
                ]
                line = f"{count} workers: {row.frames_per_s:.3f} frames/s, {row.wall_s:.1f} s"
                results.set("runs", value=rows, line=line)
    report(measured, step_s=step_s, memory=memory)
    print(f"written to {results.path}")


def efficiency(m: Measured, measured: Sequence[Measured]) -> float:
    """Return the frames per second and worker, relative to the smallest number of workers."""
    fewest = measured[0]
    return (m.frames_per_s / m.workers) / (fewest.frames_per_s / fewest.workers)


def report(measured: Sequence[Measured], *, step_s: float, memory: int) -> None:
    """Print one row per number of workers."""
    table = Table(title=f"Workers that sleep {step_s:g} s per frame, on {hardware()}")
    columns = ("workers", "clips", "frames/s", "efficiency", "of sleeping alone", "coordinator ms/clip")
    for column in columns:
        table.add_column(column, justify="right")
    for m in measured:
        table.add_row(
            str(m.workers),
            str(m.clips),
            f"{m.frames_per_s:.3f}",
            f"{efficiency(m, measured):.3f}",
            f"{m.frames_per_s * step_s / m.workers:.3f}",
            f"{m.coordinator_s / m.clips * 1e3:.1f}",
        )
    console = Console()
    console.print(table)
    reached = efficiency(measured[-1], measured)
    console.print(
        f"{measured[-1].workers} workers: efficiency {reached:.3f}, target {TARGET}; "
        f"all processes together used {memory / 2**30:.1f} GiB"
    )


if __name__ == "__main__":
    typer.run(main)

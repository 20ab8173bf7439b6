"""How extraction scales: 1 to 64 workers whose teacher is a fixed sleep.

    python benchmarks/scaling.py

Real worker processes on this machine, one dask scheduler, one dataset on its disk. A step sleeps and images
are blank: what is measured is whether workers keep each other waiting, for the coordinator, for the lock of
the dataset, or for the disk. Every clip is read, written, flushed and entered in the ledger as always. All
workers share these cores, as no cluster's do, and since their clips are equally long they all want them at
the same moments. A clip takes 24 s, about as long as one of Bench2Drive on a fast GPU.

All workers start once, look at a clip each in no time so that everything is loaded, and are then sent home
group by group. They are forked from one process that has the libraries loaded, because 64 of them would
otherwise load 64 copies. dask's self-observation is off: at its usual pace it takes 4 % of a core a worker,
which is little on a machine of its own, but not where 64 share the cores.
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

from benchmarks.record import hardware, write
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

LEAVE_WITHIN_S = 60
"""A worker that is told to stop takes no longer."""
SHARED_MACHINE = {
    "distributed.worker.multiprocessing-method": "forkserver",
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "5s",
}
"""Settings of dask that make room for many workers on few cores."""
TARGET = 0.95
"""Efficiency that the most workers should reach."""


class Sleeper:
    """A ``Teacher`` that opens no image, sleeps a fixed time over a step, and computes nothing.

    Args:
        step_s: Seconds of a step.
    """

    kind = "driving"
    features: tuple[FeatureSpec, ...] = (
        FeatureSpec(name="silence", shape=(8,), axes=("channel",), dtype="float16", role="target"),
    )
    identity = TeacherIdentity(name="sleeper", weights="none", precision="none")

    def __init__(self, step_s: float) -> None:
        self.step_s = step_s

    def prepare(self, sample: DrivingSample) -> str:
        """See ``Teacher``."""
        return sample.clip

    def collate(self, inputs: Sequence[str | None]) -> int:
        """See ``Teacher``: the number of slots."""
        return len(inputs)

    def begin(self, slots: int) -> None:
        """It has no memory."""

    def step(self, batch: int, state: None) -> tuple[dict[str, Tensor], None]:
        """See ``Teacher``."""
        time.sleep(self.step_s)
        return {"silence": torch.zeros(batch, 8, dtype=torch.float16)}, state

    def assets(self) -> dict[str, dict[str, Tensor]]:
        """None."""
        return {}


@dataclass(frozen=True)
class Measured:
    """What one number of workers did."""

    workers: int
    clips: int
    frames: int
    wall_s: float
    """From the first clip that is sent out to the last receipt."""
    coordinator_s: float
    """Processor time of the main process, scheduler included, over the same clips."""

    @property
    def frames_per_s(self) -> float:
        """Of all workers together."""
        return self.frames / self.wall_s


def many_clips(root: Path, *, clips: int, frames: int) -> None:
    """Write one synthetic clip under many names; all but the names exist once."""
    (original,) = write_demo_data(root, clips=1, frames=frames)
    stem, number = original.name.split("_Route")
    route, weather = number.split("_")
    for index in range(1, clips):
        name = f"{stem}_Route{int(route) + index}_{weather}"
        shutil.copytree(original, original.with_name(name), copy_function=os.link)


def send_home(client: distributed.Client, stay: int) -> None:
    """Stop all but ``stay`` workers of a cluster."""
    cluster = client.cluster
    assert cluster is not None
    cluster.scale(stay)
    deadline = time.monotonic() + LEAVE_WITHIN_S
    while len(client.nthreads()) != stay:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(client.nthreads())} workers are left where {stay} should be")
        time.sleep(0.1)


def measure(selection: Selection, client: distributed.Client, path: Path, *, step_s: float) -> Measured:
    """Extract every clip of ``selection`` into a new dataset."""
    workers = len(client.nthreads())
    before_s = time.process_time()
    report = extract_on_cluster(selection, lambda: Sleeper(step_s), path, client, slots=1)
    coordinator_s = time.process_time() - before_s
    if report.frames != selection.samples or report.failed:
        raise RuntimeError(f"{report.frames} of {selection.samples} frames were made: {report.failed}")
    return Measured(workers, len(selection.clips), report.frames, report.wall_s, coordinator_s)


def memory_bytes() -> int:
    """Memory of this process and all that it has started; what they share counts once."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(process.memory_full_info().pss for process in family)


def main(
    workers: Annotated[list[int] | None, typer.Option(help="Numbers of workers. [1, 4, 16, 64]")] = None,
    clips: Annotated[int, typer.Option(help="Clips a worker.")] = 3,
    frames: Annotated[int, typer.Option(help="Frames a clip.")] = 8,
    step_s: Annotated[float, typer.Option(help="Seconds a step.")] = 3.0,
    out: Annotated[Path | None, typer.Option(help="Where the numbers go, as JSON.")] = None,
) -> None:
    """Time some numbers of workers and print a row for each."""
    dask.config.set(SHARED_MACHINE)
    get_mp_context().set_forkserver_preload(["pipeline.extraction.cluster"])
    counts = sorted(workers or [1, 4, 16, 64], reverse=True)
    measured: list[Measured] = []
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "data"
        many_clips(root, clips=counts[0] * clips, frames=frames)
        everything = Bench2Drive(root).select()
        with local_cluster(counts[0]) as client:
            warm_up = dataclasses.replace(everything, clips=everything.clips[: counts[0]])
            measure(warm_up, client, Path(temporary) / "warm_up.zarr", step_s=0.0)
            memory = memory_bytes()
            for count in counts:
                send_home(client, count)
                some = dataclasses.replace(everything, clips=everything.clips[: count * clips])
                measured.append(measure(some, client, Path(temporary) / f"{count}.zarr", step_s=step_s))
    measured.reverse()
    report(measured, step_s=step_s, memory=memory)
    rows = [
        dataclasses.asdict(m) | {"frames_per_s": m.frames_per_s, "efficiency": efficiency(m, measured)}
        for m in measured
    ]
    numbers = {
        "step_s": step_s,
        "frames_a_clip": frames,
        "memory_bytes": memory,
        "dask": SHARED_MACHINE,
        "runs": rows,
    }
    write("scaling", numbers, out)


def efficiency(m: Measured, measured: Sequence[Measured]) -> float:
    """Frames a second of a worker, over those of a worker among the fewest."""
    fewest = measured[0]
    return (m.frames_per_s / m.workers) / (fewest.frames_per_s / fewest.workers)


def report(measured: Sequence[Measured], *, step_s: float, memory: int) -> None:
    """Print one row a number of workers."""
    table = Table(title=f"Workers that sleep {step_s:g} s a frame, on {hardware()}")
    columns = ("workers", "clips", "frames/s", "efficiency", "of the sleep alone", "coordinator ms a clip")
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
        f"all processes together held {memory / 2**30:.1f} GiB"
    )


if __name__ == "__main__":
    typer.run(main)

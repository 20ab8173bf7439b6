"""How fast frames become a dataset: the reference's loop against ours, side by side in one run.

    python benchmarks/extraction.py

Three teachers: one that costs nothing; one that sleeps over a frame as long as a GPU would work, while the
processor is free; and ORION at middling width, computed on this processor. Each is asked by the reference's
loop (which decodes itself, or has four processes for that, as released) and by ``extract`` with 1, 4 and 8
slots; ORION also by ``extract --workers`` with a worker a core. Where bf16 is faster than fp32, ORION is
asked in bf16 as well, and compared with the reference's loop in fp32, as released. A ratio is the median over
repeats, each of which runs every way once. (Bench2Drive's clips have some 260 frames: the fewer a clip has,
the more its files weigh on ours.)

Then the machinery alone: the teacher that costs nothing, against what decoding alone and writing alone
sustain.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import os
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.arithmetic import pays
from benchmarks.incumbent import Stages, reference_loop
from benchmarks.record import hardware, write
from benchmarks.subjects import MidWidth, Pretender
from cache_schema.vocabulary.driving import GROUND_TRUTH
from pipeline.bench2drive.source import Bench2Drive
from pipeline.bench2drive.synthetic import write_demo_data
from pipeline.extraction.allocator import keep_freed_memory
from pipeline.extraction.cluster import extract_on_cluster
from pipeline.extraction.dask_cluster import local_cluster
from pipeline.extraction.run import extract

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from benchmarks.subjects import Subject
    from pipeline.source import Selection

CLIPS = 8
"""As many as the most slots."""
GPU_FRAME_S = 0.1
"""About 15 TFLOP a frame at half of 312 TFLOP/s, which an A100 has in half precision."""
RATIO_TARGET, MACHINERY_TARGET = 3.0, 0.85
"""Over the reference's loop, at middling width; of the smaller limit of the machinery's parts."""


@dataclass(frozen=True)
class Way:
    """One way to run a teacher."""

    slots: int | None = None
    """Clips in lock-step; None for the reference's loop."""
    workers: int | None = None
    """Processes with a teacher each; None for this one."""
    loaders: int = 0
    """Processes that decode for the reference's loop."""

    @property
    def name(self) -> str:
        """For the table."""
        if self.workers is not None:
            return f"ours, {self.workers} workers"
        if self.slots is not None:
            return f"ours, {self.slots} slots"
        return f"reference, {self.loaders} loaders" if self.loaders else "reference, decodes itself"


LOOP, LOADERS = Way(), Way(loaders=4)
OURS = (Way(slots=1), Way(slots=4), Way(slots=8))
CREW = Way(slots=1, workers=min(CLIPS, os.cpu_count() or 1))
WAYS = (LOOP, LOADERS, *OURS, CREW)
FULL, HALF = "mid width in fp32", "mid width in bf16"


def ways_of(teacher: str) -> Sequence[Way]:
    """How a teacher is run. One that only sleeps would sleep side by side in a crew, and prove nothing."""
    if teacher == HALF:
        return (*OURS, CREW)
    return WAYS if teacher == FULL else (LOOP, LOADERS, *OURS)


@dataclass(frozen=True)
class Run:
    """One way, once."""

    teacher: str
    way: Way
    frames_per_s: float
    stages: Stages | None
    """Of the reference's loop."""


@dataclass(frozen=True)
class Machinery:
    """What ours sustains with a teacher that costs nothing, and its parts alone. Seconds are of cores."""

    frames_per_s: float
    decode_frames_per_s: float
    disk_frames_per_s: float
    frame_s: float
    """Of a frame, whole."""
    decode_frame_s: float
    """Of a frame, decoding alone."""
    busy: float
    """Share of all cores that the whole keeps busy."""

    @property
    def fraction(self) -> float:
        """Of the smaller limit."""
        return self.frames_per_s / min(self.decode_frames_per_s, self.disk_frames_per_s)


@functools.cache
def made(load: Callable[[], Subject]) -> Subject:
    """A teacher of this process, loaded once."""
    return load()


def run_once(name: str, load: Callable[[], Subject], way: Way, selection: Selection, folder: Path) -> Run:
    """Extract a selection in one way, beginning to end, and throw the result away.

    A crew is timed from the moment that its teachers and the empty dataset are there.
    """
    out = folder / "ours.zarr"
    try:
        if way.slots is None:
            stages = reference_loop(selection, made(load), folder / "npz", loaders=way.loaders)
            return Run(name, way, selection.samples / stages.wall_s, stages)
        with contextlib.redirect_stderr(io.StringIO()):
            if way.workers is None:
                begun = time.perf_counter()
                report = extract(selection, made(load), out, slots=way.slots)
                wall_s = time.perf_counter() - begun
            else:
                with local_cluster(way.workers) as client:
                    report = extract_on_cluster(selection, load, out, client, slots=way.slots)
                wall_s = report.wall_s
        if report.frames != selection.samples:
            raise RuntimeError(f"{report.frames} of {selection.samples} frames were made: {report.failed}")
        return Run(name, way, selection.samples / wall_s, stages=None)
    finally:
        for left in folder.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()


def machinery(selection: Selection, folder: Path) -> Machinery:
    """Time the whole and its parts over the same frames."""
    load = functools.partial(Pretender, 0.0)
    null, cores = made(load), os.cpu_count() or 1
    clips = [(clip.open(), clip.samples) for clip in selection.clips]
    frames = [opened.sample(index) for opened, samples in clips for index in range(samples)]

    def decode() -> None:
        with ThreadPoolExecutor(cores) as pool:
            for done in [pool.submit(null.prepare, frame) for frame in frames]:
                done.result()

    content = os.urandom(sum(spec.nbytes for spec in (*null.features, *GROUND_TRUTH)) * len(frames))

    def save() -> None:
        with (folder / "raw").open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    decode_wall_s, decode_s = timed(decode)
    disk_wall_s, _ = timed(save)
    wall_s, cpu_s = timed(lambda: run_once("", load, Way(slots=CLIPS), selection, folder))
    return Machinery(
        frames_per_s=len(frames) / wall_s,
        decode_frames_per_s=len(frames) / decode_wall_s,
        disk_frames_per_s=len(frames) / disk_wall_s,
        frame_s=cpu_s / len(frames),
        decode_frame_s=decode_s / len(frames),
        busy=cpu_s / wall_s / cores,
    )


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and of this process on all processors."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall_s, time.process_time() - cpu_s


def main(
    repeats: Annotated[int, typer.Option(help="How often every way runs.")] = 3,
    frames: Annotated[int, typer.Option(help="Frames of each of the 8 clips that are looked at.")] = 24,
    computed_frames: Annotated[int, typer.Option(help="The same for ORION, which takes long.")] = 3,
    out: Annotated[Path | None, typer.Option(help="Where the numbers go, as JSON.")] = None,
) -> None:
    """Time every way to run every teacher, and print tables of ratios."""
    loads: dict[str, Callable[[], Subject]] = {
        "costs nothing": functools.partial(Pretender, 0.0),
        f"sleeps {GPU_FRAME_S} s a frame": functools.partial(Pretender, GPU_FRAME_S),
        FULL: functools.partial(MidWidth, "fp32"),
    }
    if pays("bf16"):
        loads[HALF] = functools.partial(MidWidth, "bf16")
    keep_freed_memory()  # for the reference, too: ours does so, and it lasts as long as the process
    for load in loads.values():
        made(load)
    runs: list[list[Run]] = []
    machines: list[Machinery] = []
    with tempfile.TemporaryDirectory() as temporary:
        short, long, work = (Path(temporary) / name for name in ("short", "long", "work"))
        write_demo_data(short, clips=CLIPS, frames=computed_frames)
        write_demo_data(long, clips=CLIPS, frames=frames)
        work.mkdir()
        few, many = Bench2Drive(short).select(), Bench2Drive(long).select()
        for _ in range(repeats):
            runs.append(
                [
                    run_once(name, load, way, few if name in (FULL, HALF) else many, work)
                    for name, load in loads.items()
                    for way in ways_of(name)
                ]
            )
            machines.append(machinery(many, work))
    report_ways(runs)
    report_machinery(machines)
    numbers = {
        "load_average": os.getloadavg(),
        "frames": {"computed": few.samples, "others": many.samples},
        "targets": {"ratio": RATIO_TARGET, "machinery": MACHINERY_TARGET},
        "runs": [[dataclasses.asdict(run) for run in repeat] for repeat in runs],
        "machinery": [dataclasses.asdict(machine) | {"fraction": machine.fraction} for machine in machines],
    }
    write("extraction", numbers, out)


def report_ways(runs: Sequence[Sequence[Run]]) -> None:
    """Print one row a teacher and way, and where the time of the reference's loop goes."""
    table = Table(title=f"Extraction on {hardware()}")
    columns = ("frames/s", "slowest - fastest", "times decodes itself", "times 4 loaders")
    table.add_column("teacher")
    table.add_column("way", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    console = Console()
    notes = []

    def rates(teacher: str, way: Way) -> list[float]:
        return [
            run.frames_per_s for repeat in runs for run in repeat if (run.teacher, run.way) == (teacher, way)
        ]

    for teacher in dict.fromkeys(run.teacher for run in runs[0]):
        against = FULL if teacher == HALF else teacher
        for way in ways_of(teacher):
            measured = rates(teacher, way)
            table.add_row(
                teacher,
                way.name,
                f"{statistics.median(measured):.2f}",
                f"{min(measured):.2f} - {max(measured):.2f}",
                *(f"{ratio(measured, rates(against, first)):.2f}" for first in (LOOP, LOADERS)),
            )
        table.add_section()
        if teacher == HALF:
            continue
        loops = [run.stages for repeat in runs for run in repeat if (run.teacher, run.way) == (teacher, LOOP)]
        stages = [stages for stages in loops if stages is not None]
        shares = ", ".join(
            f"{median(getattr(s, part) / s.wall_s for s in stages):.0%} {what}"
            for part, what in (("images_s", "images"), ("teacher_s", "teacher"), ("disk_s", "compressing"))
        )
        most = median(s.wall_s / s.teacher_s for s in stages)
        limit = (
            "" if most > 100 else f"; if all but the teacher were free, it would be {most:.2f} times as fast"
        )
        notes.append(f"{teacher}: the reference's loop spends {shares}{limit}")
    console.print(table)
    for note in notes:
        console.print(note)
    if all(run.teacher != HALF for run in runs[0]):
        console.print("bf16 is slower than fp32 on this processor, so it did not run")
    console.print(f"target: {RATIO_TARGET:g} times for the mid-width teacher\n")


def report_machinery(machines: Sequence[Machinery]) -> None:
    """Print the whole and its parts."""
    table = Table(title="The machinery alone, 1600x900 JPEGs in, features of orion-7b out")
    table.add_column("")
    table.add_column("frames/s", justify="right")
    rows = (
        ("decoding and resizing alone, all cores", "decode_frames_per_s"),
        ("writing the same bytes alone, flushed", "disk_frames_per_s"),
        (f"ours, {CLIPS} slots, a teacher that costs nothing", "frames_per_s"),
    )
    for what, field in rows:
        table.add_row(what, f"{median(getattr(machine, field) for machine in machines):.2f}")
    console = Console()
    console.print(table)
    reached = sorted(machine.fraction for machine in machines)
    console.print(
        f"{median(reached):.0%} of the smaller limit ({reached[0]:.0%} - {reached[-1]:.0%}), "
        f"target {MACHINERY_TARGET:.0%}; processor time a frame: "
        f"{median(machine.frame_s for machine in machines) * 1e3:.0f} ms, of which decoding is "
        f"{median(machine.decode_frame_s for machine in machines) * 1e3:.0f} ms; "
        f"cores busy {median(machine.busy for machine in machines):.0%}"
    )


def median(numbers: Iterable[float]) -> float:
    """Median of at least one number."""
    return statistics.median(list(numbers))


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median ratio of two rates that were measured repeat by repeat."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))


if __name__ == "__main__":
    typer.run(main)

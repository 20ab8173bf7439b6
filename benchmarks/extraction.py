"""Speed of extraction: the reference's loop against ours, in one run.

    python -m benchmarks.extraction
    python -m benchmarks.extraction --quick    # two minutes, few frames: does it run, and roughly how fast

Every number is printed and written as it is measured. First the images of a frame: the processor time of
decoding and of shrinking them, by Pillow and by the matrix products that a GPU computes instead.

Then three teachers: one that costs nothing; one that sleeps as long as a GPU would take for a frame, while
the processor is idle; and a mid-width ORION, computed on this processor. Each is run by the reference's loop
(which decodes images itself, or has four processes for that, as released) and by ``extract`` with 1, 4 and 8
slots; ORION also by ``extract --workers`` with one worker per core. Where bf16 is faster than fp32, ORION
also runs in bf16, and is compared with the reference's loop in fp32, as released. A ratio is the median over
repeats, each of which runs every way once. (Bench2Drive's clips have some 260 frames: the shorter a clip, the
more time ours spends on its files.)

Last the machinery alone: the teacher that costs nothing, against decoding alone and writing alone.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.matmul_speed import faster_than_fp32
from benchmarks.record import Record, hardware
from benchmarks.reference_extraction import Stages, reference_loop
from benchmarks.teachers import MidWidthOrion, NoiseTeacher
from cache_schema.processors import usable_processors
from cache_schema.vocabulary.driving import GROUND_TRUTH
from pipeline.bench2drive.jpeg import read_jpeg, read_jpeg_into
from pipeline.bench2drive.source import Bench2Drive
from pipeline.bench2drive.synthetic import write_demo_data
from pipeline.extraction.allocator import keep_freed_memory
from pipeline.extraction.cluster import extract_on_cluster
from pipeline.extraction.dask_cluster import local_cluster
from pipeline.extraction.run import extract
from pipeline.teachers.orion.inputs import DECODED
from pipeline.teachers.orion.presets import ORION_7B

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from benchmarks.teachers import BenchmarkTeacher
    from pipeline.source import Selection

CLIPS = 8
"""As many as the largest number of slots."""
GPU_FRAME_S = 0.1
"""About 15 TFLOP per frame at half of 312 TFLOP/s, an A100's peak in half precision."""
RATIO_TARGET, MACHINERY_TARGET = 3.0, 0.85
"""Ratio to the reference's loop for the mid-width teacher; ratio of the machinery to its slower part."""
GPU_FRAMES_PER_S = 34
"""Frames a second that one H200 is to extract; the processors beside it have to decode as many."""
QUICK_LIMIT_S = 80.0
"""Of ``--quick``: seconds until no further row begins. None takes longer than the 40 that are left."""


@dataclass(frozen=True)
class Way:
    """A way to run a teacher: the reference's loop, or ours."""

    slots: int | None = None
    """Clips that advance together; None for the reference's loop."""
    workers: int | None = None
    """Worker processes; None runs in this process."""
    loaders: int = 0
    """Processes that decode for the reference's loop."""

    @property
    def name(self) -> str:
        """Name in the table."""
        if self.workers is not None:
            return f"ours, {self.workers} workers"
        if self.slots is not None:
            return f"ours, {self.slots} slots"
        return f"reference, {self.loaders} loaders" if self.loaders else "reference, decodes itself"


REFERENCE, REFERENCE_LOADERS = Way(), Way(loaders=4)
OURS = (Way(slots=1), Way(slots=4), Way(slots=8))
OUR_WORKERS = Way(slots=1, workers=min(CLIPS, usable_processors()))
QUICK_WAYS = (REFERENCE, Way(slots=CLIPS))
MID_FP32, MID_BF16 = "mid width in fp32", "mid width in bf16"


def ways_of(teacher: str) -> Sequence[Way]:
    """Return the ways that a teacher is run.

    The reference has no bf16. Several workers only run a teacher that computes: sleeping in parallel would
    show nothing.
    """
    ways = OURS if teacher == MID_BF16 else (REFERENCE, REFERENCE_LOADERS, *OURS)
    return (*ways, OUR_WORKERS) if teacher in (MID_FP32, MID_BF16) else ways


@dataclass(frozen=True)
class Run:
    """One run of a teacher in one way."""

    teacher: str
    way: Way
    frames_per_s: float
    stages: Stages | None
    """Where the time of the reference's loop went; None for ours."""


Runs = dict[tuple[str, Way], list[Run]]
"""By teacher and way, in the order of repeats."""


@dataclass(frozen=True)
class Machinery:
    """Speed of ours with a teacher that costs nothing, and of its parts alone."""

    frames_per_s: float
    decode_frames_per_s: float
    disk_frames_per_s: float
    frame_s: float
    """Processor time of a frame."""
    decode_frame_s: float
    """Processor time of decoding a frame alone."""
    busy: float
    """Share of the time of all cores that was used."""

    @property
    def fraction(self) -> float:
        """Speed relative to the slower part."""
        return self.frames_per_s / min(self.decode_frames_per_s, self.disk_frames_per_s)


@functools.cache
def load_once(load: Callable[[], BenchmarkTeacher]) -> BenchmarkTeacher:
    """Return a teacher in this process, which is loaded at the first call."""
    return load()


def run_once(
    name: str, load: Callable[[], BenchmarkTeacher], way: Way, selection: Selection, folder: Path
) -> Run:
    """Extract a selection in one way, and delete the result.

    Loading teachers is not timed; for worker processes neither is the making of the empty dataset.
    """
    out = folder / "ours.zarr"
    try:
        if way.slots is None:
            stages = reference_loop(selection, load_once(load), folder / "npz", loaders=way.loaders)
            return Run(name, way, selection.samples / stages.wall_s, stages)
        if way.workers is None:
            begun = time.perf_counter()
            report = extract(selection, load_once(load), out, slots=way.slots)
            wall_s = time.perf_counter() - begun
        else:
            with local_cluster(way.workers) as client:
                report = extract_on_cluster(selection, load, out, client, slots=way.slots)
            wall_s = report.wall_s
        if report.frames != selection.samples:
            raise RuntimeError(
                f"{report.frames} of {selection.samples} frames were extracted: {report.failed}"
            )
        return Run(name, way, selection.samples / wall_s, stages=None)
    finally:
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def measure_images(selection: Selection, repeats: int, record: Record) -> None:
    """Time, in one thread, what becomes of the images of a frame; print and write the median of each part."""
    images = ORION_7B.images
    paths = list(selection.clips[0].open().sample(0).images.values())
    opened = [read_jpeg(path) for path in paths]
    decoded = np.empty((len(paths), *DECODED), np.uint8)
    on_device = torch.from_numpy(decoded)

    def decode() -> None:
        for pixels, path in zip(decoded, paths, strict=True):
            read_jpeg_into(pixels, path)

    kilobytes = sum(path.stat().st_size for path in paths) / 1000
    record.set("images", "kilobytes", value=kilobytes, line=f"a frame is {kilobytes:.0f} kB of JPEGs")
    parts: dict[str, Callable[[], object]] = {
        "decoding": decode,
        "decoding, and shrinking by Pillow": lambda: [images.shrink(read_jpeg(path)) for path in paths],
        "shrinking by Pillow": lambda: [images.shrink(image) for image in opened],
        "shrinking by matrix products": lambda: images.shrink_on_device(on_device),
    }
    for part, work in parts.items():
        work()
        frame_s = median(timed(work)[1] for _ in range(repeats))
        cores = f"{GPU_FRAMES_PER_S * frame_s:.1f} cores at {GPU_FRAMES_PER_S} frames/s"
        line = f"{part}: {1000 * frame_s:.0f} ms of a processor a frame, {cores}"
        record.set("images", "frame_s", part, value=frame_s, line=line)


def measure_machinery(selection: Selection, folder: Path) -> Machinery:
    """Time ours and its parts with the same frames."""
    load = functools.partial(NoiseTeacher, 0.0)
    teacher, cores = load_once(load), usable_processors()
    clips = [(clip.open(), clip.samples) for clip in selection.clips]
    frames = [opened.sample(index) for opened, samples in clips for index in range(samples)]

    def decode() -> None:
        with ThreadPoolExecutor(cores) as pool:
            for future in [pool.submit(teacher.prepare, frame) for frame in frames]:
                future.result()

    content = os.urandom(sum(spec.nbytes for spec in (*teacher.features, *GROUND_TRUTH)) * len(frames))

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
    """Return wall-clock seconds, and processor seconds of this process."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall_s, time.process_time() - cpu_s


def main(
    repeats: Annotated[int, typer.Option(help="How often every way runs.")] = 3,
    frames: Annotated[int, typer.Option(help="Frames of each of the 8 clips.")] = 24,
    computed_frames: Annotated[
        int, typer.Option(help="Frames of each of the 8 clips for ORION, which is slow.")
    ] = 3,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Two minutes: two ways, once, with few frames; the rest is left out."),
    ] = False,
    out: Annotated[Path | None, typer.Option(help="JSON file for the results.")] = None,
) -> None:
    """Time every way to run every teacher, and print tables of ratios."""
    begun = time.perf_counter()
    if quick:
        repeats, frames, computed_frames = 1, 3, 1
    loads: dict[str, Callable[[], BenchmarkTeacher]] = {
        "costs nothing": functools.partial(NoiseTeacher, 0.0),
        f"sleeps {GPU_FRAME_S} s a frame": functools.partial(NoiseTeacher, GPU_FRAME_S),
        MID_FP32: functools.partial(MidWidthOrion, "fp32"),
    }
    if not quick and faster_than_fp32("bf16"):
        loads[MID_BF16] = functools.partial(MidWidthOrion, "bf16")
    keep_freed_memory()  # ours does so; it stays in force, and must hold for the reference's loop as well
    record = Record(
        "extraction",
        out,
        quick=quick,
        load_average=os.getloadavg(),
        frames={"computed": CLIPS * computed_frames, "others": CLIPS * frames},
        targets={"ratio": RATIO_TARGET, "machinery": MACHINERY_TARGET},
    )
    runs: Runs = defaultdict(list)
    machinery: list[Machinery] = []
    with tempfile.TemporaryDirectory() as temporary:
        short, long, work = (Path(temporary) / name for name in ("short", "long", "work"))
        write_demo_data(short, clips=CLIPS, frames=computed_frames)
        write_demo_data(long, clips=CLIPS, frames=frames)
        work.mkdir()
        few, many = Bench2Drive(short).select(), Bench2Drive(long).select()
        measure_images(many, 3 * repeats, record)
        for repeat in range(repeats):
            for name, load in loads.items():
                for way in QUICK_WAYS if quick else ways_of(name):
                    if quick and time.perf_counter() - begun > QUICK_LIMIT_S:
                        record.add(
                            "left_out", value=f"{name}, {way.name}", line=f"{name}, {way.name}: left out"
                        )
                        continue
                    selection = few if name in (MID_FP32, MID_BF16) else many
                    run = run_once(name, load, way, selection, work)
                    runs[name, way].append(run)
                    line = f"{name}, {way.name}: {run.frames_per_s:.2f} frames/s"
                    record.add("runs", value={"repeat": repeat, **dataclasses.asdict(run)}, line=line)
            measured = measure_machinery(many, work)
            machinery.append(measured)
            value = dataclasses.asdict(measured) | {"fraction": measured.fraction}
            record.add(
                "machinery", value=value, line=f"machinery: {measured.fraction:.0%} of the slower part"
            )
    report_ways(runs)
    report_machinery(machinery)
    print(f"written to {record.path}")


def report_ways(runs: Runs) -> None:
    """Print one row per teacher and way, and where the time of the reference's loop goes."""
    table = Table(title=f"Extraction on {hardware()}")
    columns = ("frames/s", "slowest - fastest", "x decodes itself", "x 4 loaders")
    table.add_column("teacher")
    table.add_column("way", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    console = Console()
    notes = []
    for teacher in dict.fromkeys(teacher for teacher, _ in runs):
        baseline = MID_FP32 if teacher == MID_BF16 else teacher
        for way in (way for other, way in runs if other == teacher):
            rates = [run.frames_per_s for run in runs[teacher, way]]
            table.add_row(
                teacher,
                way.name,
                f"{median(rates):.2f}",
                f"{min(rates):.2f} - {max(rates):.2f}",
                *(ratio(runs, (teacher, way), (baseline, other)) for other in (REFERENCE, REFERENCE_LOADERS)),
            )
        table.add_section()
        stages = [run.stages for run in runs.get((teacher, REFERENCE), ()) if run.stages is not None]
        if not stages:
            continue
        shares = ", ".join(
            f"{median(getattr(s, part) / s.wall_s for s in stages):.0%} {stage}"
            for part, stage in (("images_s", "images"), ("teacher_s", "teacher"), ("disk_s", "compressing"))
        )
        speedup = median(s.wall_s / s.teacher_s for s in stages)
        limit = "" if speedup > 100 else f"; the teacher alone would be {speedup:.2f} times as fast"
        notes.append(f"{teacher}: the reference's loop spends {shares}{limit}")
    console.print(table)
    for note in notes:
        console.print(note)
    if all(teacher != MID_BF16 for teacher, _ in runs):
        console.print("bf16 did not run: it is slower than fp32 on this processor, or time was short")
    console.print(f"target: {RATIO_TARGET:g} times for the mid-width teacher\n")


def report_machinery(machinery: Sequence[Machinery]) -> None:
    """Print the speeds of ours and of its parts."""
    table = Table(title="The machinery alone, 1600x900 JPEGs in, features of orion-7b out")
    table.add_column("")
    table.add_column("frames/s", justify="right")
    rows = (
        ("decoding and resizing alone, all cores", "decode_frames_per_s"),
        ("writing the same bytes alone, flushed", "disk_frames_per_s"),
        (f"ours, {CLIPS} slots, a teacher that costs nothing", "frames_per_s"),
    )
    for label, field in rows:
        table.add_row(label, f"{median(getattr(run, field) for run in machinery):.2f}")
    console = Console()
    console.print(table)
    reached = sorted(run.fraction for run in machinery)
    console.print(
        f"{median(reached):.0%} of the slower part ({reached[0]:.0%} - {reached[-1]:.0%}), "
        f"target {MACHINERY_TARGET:.0%}; processor time per frame: "
        f"{median(run.frame_s for run in machinery) * 1e3:.0f} ms, of which decoding is "
        f"{median(run.decode_frame_s for run in machinery) * 1e3:.0f} ms; "
        f"cores busy {median(run.busy for run in machinery):.0%}"
    )


def median(numbers: Iterable[float]) -> float:
    """Return the median of at least one number."""
    return statistics.median(list(numbers))


def ratio(runs: Runs, ours: tuple[str, Way], theirs: tuple[str, Way]) -> str:
    """Return the median over repeats of the ratio of two rates; "-" where one was not measured."""
    pairs = zip(runs.get(ours, ()), runs.get(theirs, ()), strict=False)
    ratios = [one.frames_per_s / other.frames_per_s for one, other in pairs]
    return f"{median(ratios):.2f}" if ratios else "-"


if __name__ == "__main__":
    typer.run(main)

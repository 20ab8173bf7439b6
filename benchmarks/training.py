"""Speed of loading frames and training a student: the reference's implementation against ours, in one run.

    python -m benchmarks.training
    python -m benchmarks.training --quick

Both train the student of the released sizes with the five losses in batches of 64 (of 16 on a CPU), from
frames of the released sizes: 529 x 4096 tokens, or the 528 x 256 queries that they are computed from. The
reference decompresses one file per frame and converts it to float32 in worker processes, projects whole
tokens, and computes keys and values for each of them. Files and dataset are in the page cache, since the disk
is not what is measured.

Three rates, each in frames per second: loading alone, until a batch is on the device; a step alone, on one
batch; and both together. Ours also with a moving average of the weights, and on a GPU at 256, too. On a CPU
everything is float32; on a GPU ours is bfloat16 with all frames on the device. A narrower student shows
smaller differences, because its planner reads tokens of the released width and is as large as before.
"""

from __future__ import annotations

import contextlib
import gc
import io
import itertools
import math
import os
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from safetensors.torch import save

from benchmarks.formats import LatentFormat, content, random_heads
from benchmarks.record import Record, hardware
from benchmarks.reference_training import ReferenceStudent, ReferenceTrainer, loader, shared_bytes
from cache_schema.dataset.reader import LatentDataset
from cache_schema.processors import usable_processors
from student.loading.batches import LatentSamples
from student.orion_lite.planner import Planner, PlannerConfig
from student.orion_lite.policies import teacher_planner
from student.orion_lite.presets import ORION_LITE
from student.orion_lite.system import OrionLiteSystem
from student.runs.presets import changed
from student.training.distributed import join_processes
from student.training.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from student.loading import Resident
    from student.runs.config import Precision, RunConfig

    Rates = Iterator[tuple[str, str, float]]
    """Implementation, part of its work, and frames per second."""

TARGETS = {"loading": 30.0, "training": 4.0}
"""Ratios to the reference's rates, on a CPU with two cores."""
GPU_TARGET = 4000.0
"""Frames per second of training on one GPU: 20 epochs of Bench2Drive Base in 20 minutes."""
TOKEN_WIDTH = 4096
CLIP_FRAMES = 64
PARTS = ("loading", "step", "training")


WORKERS = usable_processors()
"""Processes that load for the reference."""
SHARED_MEMORY = Path("/dev/shm")


def make_data(folder: Path, *, files: int, frames: int) -> tuple[list[Path], Path]:
    """Write per-frame files, and a latent dataset; both repeat ``CLIP_FRAMES`` frames.

    Returns:
        Paths of the files, and of the dataset.
    """
    heads = random_heads()
    reference, ours = content(CLIP_FRAMES, heads, 0)

    def save_frame(number: int) -> Path:
        path = folder / f"data_clip_{number}.npz"
        np.savez_compressed(
            path, **{name: values[number % CLIP_FRAMES] for name, values in reference.items()}
        )
        return path

    with ThreadPoolExecutor(usable_processors()) as pool:
        written = list(pool.map(save_frame, range(files)))
    torch.manual_seed(0)
    assets = {
        "teacher_heads.safetensors": save({name: torch.from_numpy(value) for name, value in heads.items()}),
        "teacher_planner.safetensors": save(Planner(PlannerConfig(token_width=TOKEN_WIDTH)).state_dict()),
    }
    dataset = LatentFormat("ours", folder / "ours.zarr", assets)
    for clip in range(frames // CLIP_FRAMES):
        dataset.write(clip, (reference, ours))
    return written, dataset.folder


def rate(frames_of_steps: Iterator[int], device: str) -> float:
    """Return the frames per second of an iterator that yields the number of frames of each step."""

    def now_s() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    begun = now_s()
    frames = sum(frames_of_steps)
    return frames / (now_s() - begun)


def reference(files: Sequence[Path], dataset: Path, config: RunConfig, device: str, steps: int) -> Rates:
    """Measure the reference, with one loading process per core; yields as ``ours``."""
    system = OrionLiteSystem(config.student, config.losses)
    model = ReferenceStudent(system.student, PlannerConfig(token_width=TOKEN_WIDTH))
    model.load_planner(teacher_planner(LatentDataset.open(dataset)))
    trainer = ReferenceTrainer(model, system.losses, device=device)
    batches = loader(files, batch_size=config.training.batch_size, workers=WORKERS)
    batch = next(iter(batches))
    size = len(batch["planning_token"])

    def step_only() -> Iterator[int]:
        for _ in range(steps):
            trainer.step(batch)
            yield size

    def training() -> Iterator[int]:
        for batch in itertools.islice(batches, steps):
            trainer.step(batch)
            yield len(batch["planning_token"])

    trainer.step(batch)
    yield "reference", "loading", rate((len(batch["planning_token"]) for batch in batches), device)
    yield "reference", "step", rate(step_only(), device)
    yield "reference", "training", rate(training(), device)


def ours(dataset: Path, config: RunConfig, device: str, steps: int, resident: Resident, run: Path) -> Rates:
    """Measure ours: the loop that ``teachonce train`` runs, without its checkpoints.

    Yields:
        The implementation, a part of its work, and its frames per second.
    """
    opened, system = LatentDataset.open(dataset), config.make_system()
    accelerator = join_processes(config.training, device=device, trackers=(), logs=run)
    frames = LatentSamples(
        opened, "train", system.required_features(), device=accelerator.device, resident=resident
    )
    trainer = Trainer(accelerator, opened, run, config, system=system, samples=frames, held_out=None)
    rows = np.arange(min(config.training.batch_size, len(frames)))
    batch = frames.read(rows)

    def loading_only() -> Iterator[int]:
        for loaded, _ in frames.stream(trainer.sampler.windows(1), recycle=True):
            yield len(loaded)

    def step_only(count: int = steps) -> Iterator[int]:
        for _ in range(count):
            trainer.take_step(rows, [(rows, batch)], epoch=1)
            yield len(rows)

    def training() -> Iterator[int]:
        trainer.step = 0
        for _ in itertools.islice(trainer.train_epoch(1), steps):
            yield len(rows)

    sum(itertools.islice(loading_only(), 2))
    yield "ours", "loading", rate(loading_only(), device)
    averaged, trainer.average = trainer.average, None
    for name, average in (("ours", None), ("ours, EMA", averaged)):
        trainer.average = average
        sum(step_only(3 if device == "cuda" else 1))  # the first ones allocate memory
        yield name, "step", rate(step_only(), device)
        yield name, "training", rate(training(), device)


def reference_left_out(batch: int) -> str:
    """Return why the reference's workers cannot send batches through shared memory; empty if they can."""
    needed = shared_bytes(batch, WORKERS)
    free = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.exists() else math.inf
    if needed <= free:
        return ""
    return (
        f"the reference (as with --only-ours): {WORKERS} workers send batches of {batch} through "
        f"{SHARED_MEMORY}, {needed / 1e9:.1f} GB at a time, and {free / 1e9:.1f} GB are free"
    )


def main(
    repeats: Annotated[int, typer.Option(help="How often each implementation runs.")] = 3,
    steps: Annotated[int, typer.Option(help="Timed steps on a CPU; 100 times as many on a GPU.")] = 2,
    files: Annotated[int, typer.Option(help="Frames that the reference loads.")] = 256,
    frames: Annotated[int, typer.Option(help="Frames that ours loads; 8 times as many on a GPU.")] = 2048,
    batch: Annotated[
        list[int] | None,
        typer.Option(
            help="Frames of a step; repeatable. [64 and 256 on a GPU, 16 on a CPU, where 64 take 25 GB]"
        ),
    ] = None,
    hidden: Annotated[int, typer.Option(help="Width of the student; 1024 as released.")] = 1024,
    layers: Annotated[int, typer.Option(help="Its layers; 6 as released.")] = 6,
    only_ours: Annotated[bool, typer.Option(help="Leave the reference out.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="End within two minutes, on two CPU cores, too.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="JSON file for the results.")] = None,
) -> None:
    """Time both implementations; print and write every rate as it is measured, and a table of ratios."""
    on_gpu = torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    precision: Precision = "bf16" if on_gpu else "fp32"
    resident: Resident = "device" if on_gpu else "none"
    batches = batch or ([64, 256] if on_gpu else [16])
    left_out = []
    if quick:
        only_ours, repeats, frames, batches = True, 1, 512 if on_gpu else 128, batches[:1] if on_gpu else [4]
        steps, layers = (1, layers) if on_gpu else (1, 1)
        left_out.append(
            "the reference, repeats"
            + ("" if on_gpu else f", all but one of the student's layers, batches over {batches[0]}")
        )
    steps, frames = (100 * steps, 8 * frames) if on_gpu else (steps, frames)
    if not only_ours and (why := reference_left_out(max(batches))):
        left_out.append(why)
        only_ours = True
    record = Record(
        "training",
        out,
        quick=quick,
        sizes={"hidden": hidden, "layers": layers, "batches": batches, "token_width": TOKEN_WIDTH},
        ours={"precision": precision, "resident": resident},
        targets={"frames_per_s": GPU_TARGET} if on_gpu else TARGETS,
        steps=steps,
        left_out=left_out,
    )
    print(
        f"training on {hardware()}: width {hidden}, {layers} layers; ours in {precision}, "
        f"frames resident: {resident}"
    )
    for what in left_out:
        print(f"left out: {what}")
    measured: dict[tuple[str, int], dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        written, dataset = make_data(folder, files=0 if only_ours else files, frames=frames)
        record.set("load_average", value=os.getloadavg(), line="the data is written")
        for size, _ in itertools.product(batches, range(repeats)):
            config = configuration(hidden=hidden, layers=layers, batch=size, precision=precision)
            implementations = [ours(dataset, config, device, steps, resident, folder / "run")]
            if not only_ours:
                implementations.insert(0, reference(written, dataset, config, device, steps))
            for implementation in implementations:
                for name, part, found in quietly(implementation):
                    measured.setdefault((name, size), {}).setdefault(part, []).append(found)
                    line = f"{name}, batch {size}: {part} {three_digits(found)} frames/s"
                    record.add("frames_per_s", f"batch {size}", name, part, value=found, line=line)
    report(measured)
    print(f"written to {record.path}")


def configuration(*, hidden: int, layers: int, batch: int, precision: Precision) -> RunConfig:
    """Return the released configuration at other sizes, with an average of weights."""
    return changed(
        ORION_LITE,
        {
            "hidden": hidden,
            "feedforward": 4 * hidden,
            "layers": layers,
            "heads": max(hidden // 64, 1),
            "batch_size": batch,
            "mask": "complete",
            "epochs": 10**6,
            "precision": precision,
            "ema_decay": 0.999,
        },
    )


def quietly(implementation: Rates) -> Rates:
    """Measure without the output of the loops, and free the student afterwards: there is memory for one."""
    while True:
        with contextlib.redirect_stderr(io.StringIO()):
            found = next(implementation, None)
        if found is None:
            gc.collect()
            return
        yield found


def report(measured: dict[tuple[str, int], dict[str, list[float]]]) -> None:
    """Print one row per implementation and batch, and the ratios."""
    console = Console()
    table = Table(title=f"Training on {hardware()}", caption="median (slowest - fastest) frames/s")
    for column in ("implementation", "batch"):
        table.add_column(column)
    for part in PARTS:
        table.add_column(part, justify="right")
    for (name, batch), parts in measured.items():
        table.add_row(name, str(batch), *(shown(parts[part]) if part in parts else "" for part in PARTS))
    for batch in dict.fromkeys(batch for _, batch in measured):
        if ("reference", batch) in measured:
            mine, other = measured["ours", batch], measured["reference", batch]
            ratios = [[a / b for a, b in zip(mine[part], other[part], strict=True)] for part in PARTS]
            table.add_section()
            table.add_row("ours / reference", str(batch), *(f"{statistics.median(r):.1f}" for r in ratios))
    console.print(table)
    targets = ", ".join(f"{part} {ratio:g} times" for part, ratio in TARGETS.items())
    console.print(f"targets: on two CPU cores {targets}; on a GPU {GPU_TARGET:,.0f} frames/s of training")


def shown(values: list[float]) -> str:
    """Format rates of repeats."""
    median, slowest, fastest = map(three_digits, (statistics.median(values), min(values), max(values)))
    return f"{median} ({slowest} - {fastest})"


def three_digits(rate: float) -> str:
    """Format a rate with three digits."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}" if rate >= 10 else f"{rate:.2f}"


if __name__ == "__main__":
    typer.run(main)

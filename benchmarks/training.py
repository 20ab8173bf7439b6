"""How fast a student is fed and trained: the reference's way against ours, in one run.

    python -m benchmarks.training

Both train the student of the released sizes with the five losses in batches of 64 (of 16 on a CPU), from
frames of the released sizes: 529 x 4096 tokens, or the 528 x 256 queries that they are made of. The reference
inflates a file a frame and makes it float32 in worker processes, projects whole tokens, and asks for keys and
values of each of them. Files and dataset are in the page cache, since the disk is not what is measured.

Three rates, each in frames a second: loading alone, to a batch that is ready where it is used; a step alone,
on one batch; and both together. On a CPU that is float32; on a GPU ours is bfloat16 with the frames on the
device. A narrower student says less: its planner, which reads tokens of the released width, stays as large.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import io
import itertools
import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from safetensors.torch import save

from benchmarks.formats import FEATURES, content
from benchmarks.incumbent_training import Trainer, Whole, loader
from benchmarks.record import hardware, write
from cache_schema.dataset.reader import LatentDataset
from cache_schema.dataset.writer import DatasetWriter
from cache_schema.format.ledger import ClipInfo
from cache_schema.format.manifest import AssetSpec, CodeIdentity, DataIdentity, Manifest, TeacherIdentity
from cache_schema.storage.atomic_io import sha256_bytes
from student.loading.batches import LatentSamples
from student.orion_lite.planner import Planner, PlannerConfig
from student.orion_lite.policies import teacher_planner
from student.orion_lite.presets import ORION_LITE
from student.orion_lite.system import OrionLiteSystem
from student.runs.presets import changed
from student.training.distributed import join_processes
from student.training.trainer import Trainer as OurTrainer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from student.loading import Resident
    from student.runs.config import Precision, RunConfig

TARGETS = {"loading": 30.0, "training": 4.0}
"""Times the reference's rate, on a CPU of two cores."""
GPU_TARGET = 4000.0
"""Frames a second of training on one GPU: 20 epochs of Bench2Drive Base in 20 minutes."""
TOKEN_WIDTH, QUERY_WIDTH = 4096, 256
CLIP_FRAMES = 64
PARTS = ("loading", "step", "training")


@dataclass(frozen=True)
class Rates:
    """Frames a second of one way, once."""

    loading: float
    step: float
    training: float


def make_data(folder: Path, *, files: int, frames: int) -> tuple[list[Path], Path]:
    """Write frames in both ways; clips repeat the same frames, which no reader can know."""
    rng = np.random.default_rng(0)
    heads = {}
    for part in ("scene", "map"):
        heads[f"{part}.weight"] = 0.02 * rng.standard_normal((TOKEN_WIDTH, QUERY_WIDTH), np.float32)
        heads[f"{part}.bias"] = 0.02 * rng.standard_normal(TOKEN_WIDTH, np.float32)
    reference, ours = content(CLIP_FRAMES, heads, 0)

    def save_frame(number: int) -> Path:
        path = folder / f"data_clip_{number}.npz"
        np.savez_compressed(
            path, **{name: values[number % CLIP_FRAMES] for name, values in reference.items()}
        )
        return path

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        written = list(pool.map(save_frame, range(files)))
    torch.manual_seed(0)
    assets = {
        "teacher_heads.safetensors": save({name: torch.from_numpy(value) for name, value in heads.items()}),
        "teacher_planner.safetensors": save(Planner(PlannerConfig(token_width=TOKEN_WIDTH)).state_dict()),
    }
    manifest = Manifest(
        features=FEATURES,
        teacher=TeacherIdentity(name="random", weights="none", precision="none"),
        data=DataIdentity(name="random", licence="CC0-1.0", frame_rate_hz=10.0),
        code=CodeIdentity(teachonce="0", libraries={}),
        assets=tuple(
            AssetSpec(name=name, sha256=sha256_bytes(held), nbytes=len(held)) for name, held in assets.items()
        ),
    )
    path = folder / "ours.zarr"
    with DatasetWriter(path, manifest, assets) as writer:
        for number in range(frames // CLIP_FRAMES):
            clip = writer.clip(ClipInfo(name=f"clip-{number}", frames=CLIP_FRAMES, split="train"))
            clip.append(ours)
            clip.commit(wall_s=0)
    return written, path


def rate(frames_done: Iterator[int], device: str) -> float:
    """Frames a second of what yields the frames of each step."""

    def now() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    begun = now()
    frames = sum(frames_done)
    return frames / (now() - begun)


def reference(files: Sequence[Path], dataset: Path, config: RunConfig, device: str, steps: int) -> Rates:
    """The reference's way; its workers are as many as there are cores."""
    system = OrionLiteSystem(config.student, config.losses)
    model = Whole(system.student, PlannerConfig(token_width=TOKEN_WIDTH))
    model.load_planner(teacher_planner(LatentDataset.open(dataset)))
    trainer = Trainer(model, system.losses, device=device)
    loaded = loader(files, batch_size=config.training.batch_size, workers=os.cpu_count() or 1)
    batch = next(iter(loaded))
    size = len(batch["planning_token"])

    def stepping() -> Iterator[int]:
        for _ in range(steps):
            trainer.step(batch)
            yield size

    def training() -> Iterator[int]:
        for batch in itertools.islice(loaded, steps):
            trainer.step(batch)
            yield len(batch["planning_token"])

    trainer.step(batch)
    loading = rate((len(batch["planning_token"]) for batch in loaded), device)
    return Rates(loading, rate(stepping(), device), rate(training(), device))


def ours(dataset: Path, config: RunConfig, device: str, steps: int, resident: Resident, run: Path) -> Rates:
    """Our way: the loop that ``teachonce train`` runs, without its checkpoints."""
    opened, system = LatentDataset.open(dataset), config.make_system()
    accelerator = join_processes(config.training, device=device, trackers=(), logs=run)
    frames = LatentSamples(
        opened, "train", system.required_features(), device=accelerator.device, resident=resident
    )
    trainer = OurTrainer(accelerator, opened, run, config, system=system, samples=frames, held_out=None)
    rows = np.arange(min(config.training.batch_size, len(frames)))
    batch = frames.read(rows)

    def loading() -> Iterator[int]:
        for taken, _ in frames.stream(trainer.sampler.windows(1), recycle=True):
            yield len(taken)

    def stepping() -> Iterator[int]:
        for _ in range(steps):
            trainer.take_step(rows, [(rows, batch)], epoch=1)
            yield len(rows)

    def learning() -> Iterator[int]:
        for _ in itertools.islice(trainer.train_epoch(1), steps):
            yield len(rows)

    sum(itertools.islice(loading(), 2))
    sum(itertools.islice(stepping(), 3 if config.training.compile else 1))
    loaded, stepped = rate(loading(), device), rate(stepping(), device)
    trainer.step = 0
    return Rates(loaded, stepped, rate(learning(), device))


def measured(way: Callable[[], Rates]) -> Rates:
    """Measure in silence, and let go of the student, of which there is room for one."""
    with contextlib.redirect_stderr(io.StringIO()):
        rates = way()
    gc.collect()
    return rates


def main(
    repeats: Annotated[int, typer.Option(help="How often each way runs.")] = 3,
    steps: Annotated[
        int, typer.Option(help="Steps that are timed on a CPU; 100 times as many on a GPU.")
    ] = 2,
    files: Annotated[int, typer.Option(help="Frames that the reference loads.")] = 256,
    frames: Annotated[int, typer.Option(help="Frames that ours loads; 8 times as many on a GPU.")] = 2048,
    batch: Annotated[
        int | None, typer.Option(help="Frames of a step. [64 on a GPU, 16 on a CPU: 64 take 25 GB]")
    ] = None,
    hidden: Annotated[int, typer.Option(help="Width of the student; 1024 as released.")] = 1024,
    layers: Annotated[int, typer.Option(help="Its layers; 6 as released.")] = 6,
    only_ours: Annotated[bool, typer.Option(help="Leave the reference's way out.")] = False,
    out: Annotated[Path | None, typer.Option(help="Where the numbers go, as JSON.")] = None,
) -> None:
    """Time both ways, and print a table of ratios."""
    on_gpu = torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    precision: Precision = "bf16" if on_gpu else "fp32"
    resident: Resident = "device" if on_gpu else "none"
    steps, frames = (100 * steps, 8 * frames) if on_gpu else (steps, frames)
    batch = batch or (64 if on_gpu else 16)
    config = changed(
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
        },
    )
    ways: dict[str, list[Rates]] = {} if only_ours else {"reference": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        written, dataset = make_data(folder, files=0 if only_ours else files, frames=frames)
        for _ in range(repeats):
            if not only_ours:
                ways["reference"].append(measured(lambda: reference(written, dataset, config, device, steps)))
            ways.setdefault("ours", []).append(
                measured(lambda: ours(dataset, config, device, steps, resident, folder / "run"))
            )
    report(ways, config, resident)
    numbers = {
        "load_average": os.getloadavg(),
        "sizes": {"hidden": hidden, "layers": layers, "batch": batch, "token_width": TOKEN_WIDTH},
        "ours": {"precision": precision, "resident": resident},
        "targets": {"frames_per_s": GPU_TARGET} if on_gpu else TARGETS,
        "steps": steps,
        "frames_per_s": {way: [dataclasses.asdict(rates) for rates in runs] for way, runs in ways.items()},
    }
    write("training", numbers, out)


def report(ways: dict[str, list[Rates]], config: RunConfig, resident: Resident) -> None:
    """Print one row a way, and the ratios."""
    console = Console()
    table = Table(title=f"Training on {hardware()}", caption="median (slowest - fastest) frames/s")
    table.add_column("way")
    for part in PARTS:
        table.add_column(part, justify="right")
    for way, runs in ways.items():
        cells = []
        for part in PARTS:
            found = [getattr(rates, part) for rates in runs]
            cells.append(f"{figure(statistics.median(found))} ({figure(min(found))} - {figure(max(found))})")
        table.add_row(way, *cells)
    if "reference" in ways:
        pairs = list(zip(ways["ours"], ways["reference"], strict=True))
        ratios = {part: [getattr(a, part) / getattr(b, part) for a, b in pairs] for part in PARTS}
        table.add_section()
        table.add_row("ours / reference", *(f"{statistics.median(found):.1f}" for found in ratios.values()))
    console.print(table)
    console.print(
        f"width {config.student['hidden']}, {config.student['layers']} layers, batches of "
        f"{config.training.batch_size}; ours in {config.training.precision}, frames resident: {resident}"
    )
    wanted = ", ".join(f"{part} {ratio:g} times" for part, ratio in TARGETS.items())
    console.print(f"targets: on two CPU cores {wanted}; on a GPU {GPU_TARGET:,.0f} frames/s of training")


def figure(rate: float) -> str:
    """Three digits of a rate."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}" if rate >= 10 else f"{rate:.2f}"


if __name__ == "__main__":
    typer.run(main)

"""How long ORION thinks about one frame, and how long a student in place of its language model does.

    python -m benchmarks.latency

One clip, one frame at a time, random weights at the released sizes; on both sides the same device, and the
same numbers: the vision backbone, the language model, the student's decoder and the planner compute in the
chosen precision, the detection and map heads in float32. Two things are timed: the part that the student
replaces, from scene queries to trajectories (language model and planner against decoder and planner), and
the whole frame, from camera images in host memory to trajectories in host memory. Each is repeated after a
warm-up until its time is up, and told in percentiles; with fewer than a hundred repeats the last one is
little more than the largest.

Besides ours there are rows for what the reference does: the language model computes all positions of its
prompt, of which one is read, and the planner decodes its six steps one after the other. Of these the replaced
part alone is timed.

Memory is the most that was in use while a row ran: on a GPU what torch had allocated, on a CPU the process
less what it used before anything was loaded; weights that a row does not need are taken off.

On a CPU the language model has as many of its layers as fit into memory, and the table says so.
"""

from __future__ import annotations

import dataclasses
import gc
import itertools
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import psutil
import torch
import typer
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.arithmetic import pays
from benchmarks.gpu_extraction import FRAME_S, WholePrompt, frames
from benchmarks.record import hardware, write
from cache_schema.vocabulary.orion import EGO_TOKEN, HEADS, SCENE_QUERIES, vision_tokens
from pipeline.teachers.orion.checkpoints.tensors import model_shapes
from pipeline.teachers.orion.precision import TYPES
from pipeline.teachers.orion.presets import ORION_7B, ORION_TINY
from student.orion_lite.config import OrionLiteConfig
from student.orion_lite.folded import FoldedStudent
from student.orion_lite.model import OrionLite
from student.orion_lite.planner import Planner, PlannerConfig
from student.orion_lite.teacher_heads import TeacherHeads

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.teachers.orion.presets import OrionPreset
    from pipeline.teachers.orion.teacher import OrionTeacher

PERCENTILES = (50, 90, 99)
WIDTH = 110
"""Of a table that goes to a file."""
MEMORY_SHARE = 0.85
"""Of a machine's free memory that weights may take."""
LAYERS = re.compile(r"^language_model\.model\.layers\.")

Inputs = tuple[Tensor, Tensor]
"""Scene queries (1, Q, E) and ego token (1, D)."""


@dataclass(frozen=True)
class Timed:
    """How long one row took, every time."""

    precision: str
    part: str
    """What was timed: ``replaced part``, ``whole frame``, or ``eyes``."""
    driver: str
    took_s: tuple[float, ...]
    weights_bytes: int
    peak_bytes: int | None
    """None where it cannot be told."""

    def percentile_s(self, q: int) -> float:
        """Seconds that ``q`` per cent of the repeats did not exceed."""
        return float(np.percentile(self.took_s, q))


@dataclass(frozen=True)
class Clock:
    """How rows are timed."""

    device: str
    seconds: float
    """Time for the repeats of a row."""
    at_least: int
    warm_up: int
    base_bytes: int
    """What the process used before anything was loaded."""

    def time(self, drive: Callable[[], Tensor]) -> tuple[tuple[float, ...], int | None]:
        """Repeat ``drive`` until its trajectories are in host memory; return seconds, and peak memory."""
        with torch.inference_mode():
            for _ in range(self.warm_up):
                drive().cpu()
            gc.collect()
            self._forget_peak()
            took_s: list[float] = []
            ends = time.perf_counter() + self.seconds
            while len(took_s) < self.at_least or time.perf_counter() < ends:
                begun = time.perf_counter()
                drive().cpu()
                took_s.append(time.perf_counter() - begun)
        return tuple(took_s), self._peak_bytes()

    def _forget_peak(self) -> None:
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        elif Path("/proc/self/clear_refs").exists():
            Path("/proc/self/clear_refs").write_text("5")

    def _peak_bytes(self) -> int | None:
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated()
        status = Path("/proc/self/status")
        peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
        return int(peak[1]) * 1024 - self.base_bytes if peak else None


class OneByOne(nn.Module):
    """The planner's decoder as the reference runs it: one step of the trajectory after the other."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, steps: Tensor) -> Tensor:
        """From (T, B, 2D) to (T, B, 2M)."""
        return torch.stack([self.decoder(step) for step in steps])


class Unasked(nn.Module):
    """In the language model's place where a student drives: says nothing (B, D)."""

    def forward(self, vision: Tensor) -> Tensor:
        """Vision tokens (B, N, D) to zeros (B, D)."""
        return vision.new_zeros(vision.shape[0], vision.shape[2])


@dataclass(frozen=True)
class Eyes:
    """The teacher up to its heads, driving straight on through one clip whose images are all alike."""

    teacher: OrionTeacher
    preset: OrionPreset

    def watch(self) -> Callable[[], Inputs]:
        """Return a function that looks at the next frame."""
        state = self.teacher.begin(1)
        first = frames(self.preset, 1, 0, pin=self.teacher.device == "cuda")
        count = itertools.count()

        def look() -> Inputs:
            nonlocal state
            index = next(count)
            pose = torch.eye(4)[None]
            pose[:, 1, 3] = index
            frame = dataclasses.replace(
                first,
                ego_pose=pose,
                ego_pose_inv=torch.linalg.inv(pose),
                timestamp_s=torch.full((1,), index * FRAME_S, dtype=torch.float64),
            )
            said, state = self.teacher.forward(frame, state)
            seen = said.detection
            return torch.cat((seen.scene, seen.history, said.road_map.queries), dim=1), seen.ego_token

        return look


def time_rows(
    clock: Clock,
    eyes: Eyes,
    driver: str,
    module: nn.Module,
    drive: Callable[[Inputs], Tensor],
    precision: str,
    *,
    whole: bool,
) -> list[Timed]:
    """Time a driver alone, and behind the eyes where the ``whole`` frame is asked for.

    ``module`` is all that ``drive`` computes with.
    """
    preset = eyes.preset
    sizes = (1, preset.config.vision_tokens - 1, preset.config.width), (1, preset.config.language.width)
    queries, ego_token = (torch.randn(size, device=clock.device) for size in sizes)
    inputs = queries, ego_token
    seeing = nbytes(eyes.teacher.model) - nbytes(eyes.teacher.model.language_model)
    thinking = nbytes(module)
    took_s, peak = clock.time(lambda: drive(inputs))
    alone = None if peak is None else peak - seeing
    rows = [Timed(precision, "replaced part", driver, took_s, thinking, alone)]
    if whole:
        look = eyes.watch()
        took_s, peak = clock.time(lambda: drive(look()))
        rows.append(Timed(precision, "whole frame", driver, took_s, thinking + seeing, peak))
    return rows


def student_rows(clock: Clock, preset: OrionPreset, sizes: OrionLiteConfig, precision: str) -> list[Timed]:
    """Time the student, with no language model in memory."""
    few = dataclasses.replace(preset.config.language, layers=1)
    blind = dataclasses.replace(preset, config=dataclasses.replace(preset.config, language=few))
    teacher = blind.load(None, device=clock.device, precision=precision)
    teacher.model.set_submodule("language_model", Unasked())
    stored = {spec.name: spec for spec in teacher.features}
    derivation = vision_tokens(stored[SCENE_QUERIES], stored[EGO_TOKEN])
    assert derivation is not None
    heads = TeacherHeads(derivation, teacher.assets()[HEADS])
    planner = PlannerConfig(token_width=preset.config.language.width)
    dtype = TYPES[precision]
    student = FoldedStudent(OrionLite(sizes, planner, heads)).to(clock.device, dtype)

    def drive(inputs: Inputs) -> Tensor:
        queries, ego_token = inputs
        return student(queries.to(dtype), ego_token.to(dtype))[1]

    eyes = Eyes(teacher, preset)
    look = eyes.watch()
    looked, _ = clock.time(lambda: look()[0])
    rows = [Timed(precision, "eyes", "both", looked, nbytes(teacher.model), None)]
    rows += time_rows(clock, eyes, "student", student, drive, precision, whole=True)
    decoder = student.student.ego_fut_decoder
    student.set_submodule("student.ego_fut_decoder", OneByOne(decoder))
    return rows + time_rows(clock, eyes, "student, one by one", student, drive, precision, whole=False)


def teacher_rows(clock: Clock, preset: OrionPreset, precision: str) -> list[Timed]:
    """Time the teacher itself, as we run it and as the reference does."""
    teacher = preset.load(None, device=clock.device, precision=precision)
    dtype = TYPES[precision]
    planner = Planner.from_tensors(teacher.assets()["teacher_planner"])
    del planner.future_distribution
    planner = planner.to(clock.device, dtype)
    model, language = teacher.model, teacher.model.language_model
    # Beside the eyes, so that they are timed without it and it without them.
    model.set_submodule("language_model", Unasked())
    scene_proj, map_proj = model.pts_bbox_head.output_projection, model.map_head.output_projection
    segments = dict(preset.config.scene_segments)

    def driven_by(think: nn.Module) -> Callable[[Inputs], Tensor]:
        def drive(inputs: Inputs) -> Tensor:
            queries, ego_token = inputs
            before, after = queries.tensor_split([segments["scene"] + segments["history"]], dim=1)
            tokens = torch.cat((scene_proj(before), ego_token[:, None], map_proj(after)), dim=1)
            return planner.plan(think(tokens).to(dtype)).offsets

        return drive

    eyes, both = Eyes(teacher, preset), nn.ModuleList([language, planner])
    rows = time_rows(clock, eyes, "teacher", both, driven_by(language), precision, whole=True)
    decoder = planner.ego_fut_decoder
    planner.set_submodule("ego_fut_decoder", OneByOne(decoder))
    reference = driven_by(WholePrompt(language))
    return rows + time_rows(clock, eyes, "teacher, reference", both, reference, precision, whole=False)


def nbytes(module: nn.Module) -> int:
    """Bytes of all weights."""
    return sum(weight.nbytes for weight in module.parameters())


def fitting(preset: OrionPreset, precision: str, free_bytes: int) -> OrionPreset:
    """The same teacher with as many layers of its language model as fit."""
    shapes = model_shapes(preset.config)
    itemsize = torch.empty(0, dtype=TYPES[precision]).itemsize
    of_layers = sum(np.prod(shape) for name, shape in shapes.items() if LAYERS.match(name)) * itemsize
    of_others = sum(np.prod(shape) for name, shape in shapes.items() if not LAYERS.match(name)) * 4
    language = preset.config.language
    fit = int((MEMORY_SHARE * free_bytes - of_others) // (of_layers / language.layers))
    layers = max(1, min(language.layers, fit))
    language = dataclasses.replace(language, layers=layers)
    return dataclasses.replace(preset, config=dataclasses.replace(preset.config, language=language))


def main(
    precision: Annotated[
        list[str] | None,
        typer.Option(
            help="fp32, fp16, bf16. [all on a GPU; on a CPU bf16 where it is faster than fp32, else fp32]"
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Time for the repeats of a row.")] = 30.0,
    at_least: Annotated[int, typer.Option(help="Repeats of a row, however long they take.")] = 10,
    warm_up: Annotated[
        int | None, typer.Option(help="Repeats before, which do not count. [3 on a GPU, 1 on a CPU]")
    ] = None,
    tiny: Annotated[bool, typer.Option("--tiny", help="Small sizes, to see that it runs.")] = False,
    out: Annotated[Path | None, typer.Option(help="Where the numbers go, as JSON.")] = None,
) -> None:
    """Time teacher and student, and print a table of percentiles and ratios."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precisions = precision or (list(TYPES) if device == "cuda" else ["bf16" if pays("bf16") else "fp32"])
    warm_up = warm_up or (3 if device == "cuda" else 1)
    clock = Clock(device, seconds, at_least, warm_up, psutil.Process().memory_info().rss)
    preset, sizes = dataclasses.replace(ORION_7B, random_seed=0), OrionLiteConfig()
    if tiny:
        preset = ORION_TINY
        sizes = OrionLiteConfig(hidden=32, layers=2, heads=4, feedforward=64)
    rows: list[Timed] = []
    layers: dict[str, int] = {}
    for name in precisions:
        rows += student_rows(clock, preset, sizes, name)
        gc.collect()
        free_bytes = psutil.virtual_memory().available
        fit = fitting(preset, name, free_bytes) if device == "cpu" else preset
        layers[name] = fit.config.language.layers
        rows += teacher_rows(clock, fit, name)
        gc.collect()
    report(rows, layers, preset.config.language.layers)
    numbers = {
        "tiny": tiny,
        "language_model_layers": {"released": preset.config.language.layers, "timed": layers},
        "rows": [
            {
                "precision": row.precision,
                "part": row.part,
                "driver": row.driver,
                "repeats": len(row.took_s),
                **{f"p{q}_s": row.percentile_s(q) for q in PERCENTILES},
                "weights_bytes": row.weights_bytes,
                "peak_bytes": row.peak_bytes,
            }
            for row in rows
        ],
    }
    write("latency", numbers, out)


def report(rows: list[Timed], layers: dict[str, int], all_layers: int) -> None:
    """Print a table a precision; ratios are against our own student, at the median."""
    console = Console()
    console = console if console.is_terminal else Console(width=WIDTH)
    for precision, timed in layers.items():
        title = f"One frame in {precision} on {hardware()}"
        if timed < all_layers:
            title += f"\nLANGUAGE MODEL OF {timed} OF ITS {all_layers} LAYERS"
        table = Table(title=title, box=box.SIMPLE_HEAD)
        for column in ("part", "driver"):
            table.add_column(column, no_wrap=True)
        for column in (*(f"p{q} ms" for q in PERCENTILES), "repeats", "x student", "weights GiB", "peak GiB"):
            table.add_column(column, justify="right")
        mine = [row for row in rows if row.precision == precision]
        student = {row.part: row.percentile_s(50) for row in mine if row.driver == "student"}
        for row in sorted(mine, key=lambda row: row.part):
            ratio = row.percentile_s(50) / student[row.part] if row.part in student else None
            table.add_row(
                row.part,
                row.driver,
                *(f"{1000 * row.percentile_s(q):.1f}" for q in PERCENTILES),
                str(len(row.took_s)),
                "-" if ratio is None else f"{ratio:.2f}",
                f"{row.weights_bytes / 2**30:.2f}",
                "-" if row.peak_bytes is None else f"{row.peak_bytes / 2**30:.2f}",
            )
        console.print(table)


if __name__ == "__main__":
    typer.run(main)

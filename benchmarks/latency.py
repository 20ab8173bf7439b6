"""Latency of one frame: ORION, against a student in place of its language model.

    python -m benchmarks.latency
    python -m benchmarks.latency --limit 240    # ends in time, and says what it left out

One clip, one frame at a time, random weights at the released sizes. Teacher and student run on the same
device in the same precisions: the vision backbone, the language model, the student's decoder and the planner
in the chosen precision, the detection and map heads in float32. Two parts are timed: the part that the
student replaces, from scene queries to trajectories (language model and planner against decoder and planner),
and the whole frame, from camera images in host memory to trajectories in host memory. Each is repeated for a
given time after a warm-up, and reported in percentiles; with fewer than a hundred repeats the 99th is close
to the maximum.

Further rows run as the reference does: the language model computes all positions of its prompt, of which one
is used, and the planner decodes its six steps one after the other. For these only the replaced part is timed.

Memory is the peak while a row ran: on a GPU what torch had allocated, on a CPU the memory of the process
less what it used before anything was loaded; weights that a row does not need are subtracted.

On a CPU the language model has as many of its layers as fit into memory, which the table states. On a GPU
the random weights are drawn there. ``--quick`` is a mid-width model: the token width is the released one, the
rest is small, so that its ratios say little of the released sizes.
"""

from __future__ import annotations

import dataclasses
import gc
import itertools
import math
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

from benchmarks.matmul_speed import faster_than_fp32
from benchmarks.orion_steps import FRAME_S, WholePrompt, frames
from benchmarks.record import Record, hardware
from benchmarks.teachers import MID_WIDTH
from cache_schema.vocabulary.orion import EGO_TOKEN, HEADS, SCENE_QUERIES, vision_tokens
from pipeline.teachers.orion.checkpoints.tensors import model_shapes
from pipeline.teachers.orion.presets import ORION_7B, ORION_TINY_RANDOM
from pipeline.teachers.precision import TYPES
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
"""Width of a table that is written to a file."""
QUICK_ROW_S, QUICK_LIMIT_S = 3.0, 90.0
"""Of ``--quick``: seconds for a row, and until no further row begins."""
MEMORY_SHARE = 0.85
"""Share of the free memory that weights may take."""
LAYERS = re.compile(r"^language_model\.model\.layers\.")

Inputs = tuple[Tensor, Tensor]
"""Inputs of a policy: scene queries (1, Q, E) and ego token (1, D)."""


@dataclass(frozen=True)
class Timing:
    """All repeats of one row."""

    precision: str
    part: str
    """What was timed: ``replaced part``, ``whole frame``, or ``vision stack``."""
    policy: str
    took_s: tuple[float, ...]
    weights_bytes: int
    peak_bytes: int | None
    """Peak memory; None where it was not measured."""

    def percentile_s(self, q: int) -> float:
        """Return the seconds that ``q`` per cent of the repeats did not exceed."""
        return float(np.percentile(self.took_s, q))

    @property
    def name(self) -> str:
        """Precision, part and policy."""
        return f"{self.precision}, {self.part}, {self.policy}"


@dataclass(frozen=True)
class Timer:
    """How rows are timed."""

    device: str
    seconds: float
    """Time for the repeats of a row."""
    at_least: int
    """Repeats of a row, however long they take, unless the time is up."""
    warm_up: int
    """Repeats before, which do not count."""
    base_bytes: int
    """Memory of the process before anything was loaded."""
    results: Record
    """Where rows are written."""
    ends: float = math.inf
    """Time (``perf_counter``) at which no further row begins."""

    def row(
        self,
        precision: str,
        part: str,
        policy: str,
        compute: Callable[[], Tensor],
        weights_bytes: int,
        unused_bytes: int = 0,
    ) -> list[Timing]:
        """Time one row, print it and write it; no row where the time is up.

        Args:
            precision: Name of the precision.
            part: What is timed.
            policy: Name of the policy.
            compute: Computes it once.
            weights_bytes: Size of the weights that it needs.
            unused_bytes: Size of others in memory, which its peak does not count.
        """
        if time.perf_counter() > self.ends:
            name = f"{precision}, {part}, {policy}"
            self.results.add("left out", value=name, line=f"{name}: left out, the time is up")
            return []
        took_s, peak = self.time(compute)
        peak = None if peak is None or part == "vision stack" else peak - unused_bytes
        row = Timing(precision, part, policy, took_s, weights_bytes, peak)
        percentiles = {f"p{q}_s": row.percentile_s(q) for q in PERCENTILES}
        value = {
            "precision": precision,
            "part": part,
            "driver": policy,
            "repeats": len(took_s),
            **percentiles,
            "weights_bytes": weights_bytes,
            "peak_bytes": peak,
        }
        shown = ", ".join(f"p{q} {1000 * row.percentile_s(q):.1f} ms" for q in PERCENTILES)
        self.results.add("rows", value=value, line=f"{row.name}: {shown}, {len(took_s)} repeats")
        return [row]

    def time(self, compute: Callable[[], Tensor]) -> tuple[tuple[float, ...], int | None]:
        """Call ``compute`` and copy its result to host memory, repeatedly.

        Returns:
            Seconds of every repeat, and peak memory in bytes.
        """
        with torch.inference_mode():
            for _ in range(self.warm_up):
                compute().cpu()
            gc.collect()
            self._reset_peak()
            took_s: list[float] = []
            enough = time.perf_counter() + self.seconds
            while len(took_s) < self.at_least or time.perf_counter() < enough:
                if took_s and time.perf_counter() > self.ends:
                    break
                begun = time.perf_counter()
                compute().cpu()
                took_s.append(time.perf_counter() - begun)
        return tuple(took_s), self._peak_bytes()

    def _reset_peak(self) -> None:
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


class StepwiseDecoder(nn.Module):
    """The planner's decoder as the reference runs it: one step of the trajectory after the other."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, steps: Tensor) -> Tensor:
        """Map (T, B, 2D) to (T, B, 2M)."""
        return torch.stack([self.decoder(step) for step in steps])


class NoLanguageModel(nn.Module):
    """Takes the place of a language model whose output is not used."""

    def forward(self, vision: Tensor) -> Tensor:
        """Map vision tokens (B, N, D) to zeros (B, D)."""
        return vision.new_zeros(vision.shape[0], vision.shape[2])


@dataclass(frozen=True)
class VisionStack:
    """The teacher up to its heads, on one clip that drives straight on and repeats the same images."""

    teacher: OrionTeacher
    preset: OrionPreset

    def start(self) -> Callable[[], Inputs]:
        """Return a function that computes the next frame of the clip."""
        state = self.teacher.begin(1)
        first = frames(self.preset, 1, 0, pin=self.teacher.device == "cuda")
        count = itertools.count()

        def next_frame() -> Inputs:
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
            output, state = self.teacher.forward(frame, state)
            detection = output.detection
            queries = torch.cat((detection.scene, detection.history, output.road_map.queries), dim=1)
            return queries, detection.ego_token

        return next_frame


def time_rows(
    timer: Timer,
    vision: VisionStack,
    policy: str,
    module: nn.Module,
    plan: Callable[[Inputs], Tensor],
    precision: str,
    *,
    whole_frame: bool,
) -> list[Timing]:
    """Time a policy alone, and behind the vision stack.

    Args:
        timer: How rows are timed.
        vision: Computes the policy's inputs.
        policy: Name of the policy.
        module: All modules that ``plan`` runs.
        plan: Maps inputs to trajectories.
        precision: Name of the precision.
        whole_frame: Time the whole frame as well.
    """
    preset = vision.preset
    sizes = (1, preset.config.vision_tokens - 1, preset.config.width), (1, preset.config.language.width)
    queries, ego_token = (torch.randn(size, device=timer.device) for size in sizes)
    vision_bytes = nbytes(vision.teacher.model) - nbytes(vision.teacher.model.language_model)
    policy_bytes = nbytes(module)
    rows = timer.row(
        precision,
        "replaced part",
        policy,
        lambda: plan((queries, ego_token)),
        policy_bytes,
        unused_bytes=vision_bytes,
    )
    if whole_frame:
        next_frame = vision.start()
        rows += timer.row(
            precision, "whole frame", policy, lambda: plan(next_frame()), policy_bytes + vision_bytes
        )
    return rows


def student_rows(timer: Timer, preset: OrionPreset, sizes: OrionLiteConfig, precision: str) -> list[Timing]:
    """Time the student, with no language model in memory."""
    one_layer = with_language_layers(preset, 1)
    teacher = one_layer.load(None, device=timer.device, precision=precision)
    teacher.model.set_submodule("language_model", NoLanguageModel())
    stored = {spec.name: spec for spec in teacher.features}
    derivation = vision_tokens(stored[SCENE_QUERIES], stored[EGO_TOKEN])
    assert derivation is not None
    heads = TeacherHeads(derivation, teacher.assets()[HEADS])
    planner = PlannerConfig(token_width=preset.config.language.width)
    dtype = TYPES[precision]
    student = FoldedStudent(OrionLite(sizes, planner, heads)).to(timer.device, dtype)

    def plan(inputs: Inputs) -> Tensor:
        queries, ego_token = inputs
        return student(queries.to(dtype), ego_token.to(dtype))[1]

    vision = VisionStack(teacher, preset)
    next_frame = vision.start()
    rows = timer.row(precision, "vision stack", "both", lambda: next_frame()[0], nbytes(teacher.model))
    rows += time_rows(timer, vision, "student", student, plan, precision, whole_frame=True)
    decoder = student.student.ego_fut_decoder
    student.set_submodule("student.ego_fut_decoder", StepwiseDecoder(decoder))
    return rows + time_rows(timer, vision, "student, one by one", student, plan, precision, whole_frame=False)


def teacher_rows(timer: Timer, preset: OrionPreset, precision: str) -> list[Timing]:
    """Time the teacher, as we run it and as the reference does."""
    teacher = preset.load(None, device=timer.device, precision=precision)
    dtype = TYPES[precision]
    planner = Planner.from_tensors(teacher.assets()["teacher_planner"])
    del planner.future_distribution
    planner = planner.to(timer.device, dtype)
    model, language = teacher.model, teacher.model.language_model
    # The vision stack and the language model are timed apart from each other.
    model.set_submodule("language_model", NoLanguageModel())
    scene_proj, map_proj = model.pts_bbox_head.output_projection, model.map_head.output_projection
    segments = dict(preset.config.scene_segments)

    def planning_with(language_model: nn.Module) -> Callable[[Inputs], Tensor]:
        def plan(inputs: Inputs) -> Tensor:
            queries, ego_token = inputs
            before, after = queries.tensor_split([segments["scene"] + segments["history"]], dim=1)
            tokens = torch.cat((scene_proj(before), ego_token[:, None], map_proj(after)), dim=1)
            return planner.plan(language_model(tokens).to(dtype)).offsets

        return plan

    vision, both = VisionStack(teacher, preset), nn.ModuleList([language, planner])
    rows = time_rows(timer, vision, "teacher", both, planning_with(language), precision, whole_frame=True)
    decoder = planner.ego_fut_decoder
    planner.set_submodule("ego_fut_decoder", StepwiseDecoder(decoder))
    reference = planning_with(WholePrompt(language))
    return rows + time_rows(
        timer, vision, "teacher, reference", both, reference, precision, whole_frame=False
    )


def nbytes(module: nn.Module) -> int:
    """Return the size of all weights."""
    return sum(weight.nbytes for weight in module.parameters())


def with_language_layers(preset: OrionPreset, layers: int) -> OrionPreset:
    """Return the same teacher with another number of layers of its language model."""
    language = dataclasses.replace(preset.config.language, layers=layers)
    return dataclasses.replace(preset, config=dataclasses.replace(preset.config, language=language))


def fit_to_memory(preset: OrionPreset, precision: str, free_bytes: int) -> OrionPreset:
    """Return the same teacher with as many layers of its language model as fit into memory."""
    shapes = model_shapes(preset.config)
    itemsize = torch.empty(0, dtype=TYPES[precision]).itemsize
    layers_bytes = sum(np.prod(shape) for name, shape in shapes.items() if LAYERS.match(name)) * itemsize
    others_bytes = sum(np.prod(shape) for name, shape in shapes.items() if not LAYERS.match(name)) * 4
    layers = preset.config.language.layers
    fit = int((MEMORY_SHARE * free_bytes - others_bytes) // (layers_bytes / layers))
    return with_language_layers(preset, max(1, min(layers, fit)))


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
    limit: Annotated[
        float | None, typer.Option(help="Seconds for everything; rows that do not fit are left out.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A mid-width model, within two minutes.")] = False,
    tiny: Annotated[bool, typer.Option("--tiny", help="Small sizes, to check that it runs.")] = False,
    out: Annotated[Path | None, typer.Option(help="JSON file for the results.")] = None,
) -> None:
    """Time teacher and student, and print a table of percentiles and ratios."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precisions = precision or (
        list(TYPES) if device == "cuda" else ["bf16" if faster_than_fp32("bf16") else "fp32"]
    )
    warm_up = warm_up or (3 if device == "cuda" else 1)
    preset, sizes = dataclasses.replace(ORION_7B, random_seed=0), OrionLiteConfig()
    if quick:
        preset, seconds, at_least, limit = MID_WIDTH, min(seconds, QUICK_ROW_S), 1, limit or QUICK_LIMIT_S
    if tiny:
        preset = ORION_TINY_RANDOM
        sizes = OrionLiteConfig(hidden=32, layers=2, heads=4, feedforward=64)
    preset = dataclasses.replace(preset, random_device=device)
    results = Record("latency", out, quick=quick or tiny, preset=preset.name, limit_s=limit)
    ends = math.inf if limit is None else time.perf_counter() + limit
    base_bytes = psutil.Process().memory_info().rss
    timer = Timer(device, seconds, at_least, warm_up, base_bytes, results, ends)
    rows: list[Timing] = []
    layers: dict[str, int] = {}
    results.set("language_model_layers", "released", value=preset.config.language.layers)
    for name in precisions:
        if time.perf_counter() > ends:
            results.add("left out", value=name, line=f"{name}: left out, the time is up")
            continue
        rows += student_rows(timer, preset, sizes, name)
        gc.collect()
        free_bytes = psutil.virtual_memory().available
        fitted = fit_to_memory(preset, name, free_bytes) if device == "cpu" else preset
        layers[name] = fitted.config.language.layers
        results.set("language_model_layers", "timed", name, value=layers[name])
        rows += teacher_rows(timer, fitted, name)
        gc.collect()
    report(rows, layers, preset.config.language.layers)
    print(f"written to {results.path}")


def report(rows: list[Timing], layers: dict[str, int], all_layers: int) -> None:
    """Print one table per precision; ratios are of medians, relative to our student."""
    console = Console()
    console = console if console.is_terminal else Console(width=WIDTH)
    for precision, timed_layers in layers.items():
        title = f"One frame in {precision} on {hardware()}"
        if timed_layers < all_layers:
            title += f"\nLANGUAGE MODEL WITH {timed_layers} OF ITS {all_layers} LAYERS"
        table = Table(title=title, box=box.SIMPLE_HEAD)
        for column in ("part", "policy"):
            table.add_column(column, no_wrap=True)
        for column in (*(f"p{q} ms" for q in PERCENTILES), "repeats", "x student", "weights GiB", "peak GiB"):
            table.add_column(column, justify="right")
        of_precision = [row for row in rows if row.precision == precision]
        student = {row.part: row.percentile_s(50) for row in of_precision if row.policy == "student"}
        for row in sorted(of_precision, key=lambda row: row.part):
            ratio = row.percentile_s(50) / student[row.part] if row.part in student else None
            table.add_row(
                row.part,
                row.policy,
                *(f"{1000 * row.percentile_s(q):.1f}" for q in PERCENTILES),
                str(len(row.took_s)),
                "-" if ratio is None else f"{ratio:.2f}",
                f"{row.weights_bytes / 2**30:.2f}",
                "-" if row.peak_bytes is None else f"{row.peak_bytes / 2**30:.2f}",
            )
        console.print(table)


if __name__ == "__main__":
    typer.run(main)

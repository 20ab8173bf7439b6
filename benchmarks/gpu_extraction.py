"""Speed of ORION on one GPU: in float32, one clip at a time, against our fastest settings, in one run.

    python -m benchmarks.gpu_extraction

Random weights at the released sizes. A step begins with camera images in host memory and ends with features
in host memory; no files are read or written. The first row is how the reference runs: float32, one clip, the
language model computes all positions of its prompt. (The reference also keeps its adapters unmerged, computes
attention matrices explicitly, projects padding, and lets every future attend to every other; this is not
reproduced.)

Floating-point operations are counted by torch's flop counter over the model on the meta device: all matrix
products and attention, the latter without masks. The peak is a large square matrix product in the same
precision in the same run.

Without a GPU it runs on the CPU with most layers left out, as the table then states; precisions other than
float32 run only where they are faster.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 - typer reads it
from typing import TYPE_CHECKING, Annotated, Any, cast

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.matmul_speed import faster_than_fp32, peak_flops_per_s
from benchmarks.record import hardware, write
from pipeline.teachers.orion.checkpoints.tensors import build
from pipeline.teachers.orion.inputs import OrionBatch
from pipeline.teachers.orion.network.config import BackboneConfig, DecoderConfig, OrionConfig
from pipeline.teachers.orion.network.memory import OrionMemory
from pipeline.teachers.orion.precision import TYPES
from pipeline.teachers.orion.presets import ORION_7B

if TYPE_CHECKING:
    from pipeline.teachers.orion.network.language_model import LanguageModel
    from pipeline.teachers.orion.network.model import Orion
    from pipeline.teachers.orion.presets import OrionPreset
    from pipeline.teachers.orion.teacher import OrionTeacher

CAMERAS = 6
FRAME_S = 0.1
TERA = 1e12


@dataclass(frozen=True)
class Run:
    """One way to run the teacher."""

    precision: str
    slots: int
    whole_prompt: bool = False
    """Compute positions of the prompt whose outputs are not used, as the reference does."""
    compiled: str | None = None
    """Mode of ``torch.compile``; None for eager."""

    @property
    def name(self) -> str:
        """Name in the table."""
        mode = "whole prompt" if self.whole_prompt else self.compiled or "eager"
        return f"{self.precision} x {self.slots}, {mode}"


REFERENCE = Run("fp32", slots=1, whole_prompt=True)


@dataclass(frozen=True)
class Measured:
    """Result of one run, or why it failed."""

    run: Run
    step_s: float | None = None
    """Median seconds of a step, which computes one frame of every slot."""
    peak_bytes: int | None = None
    """Peak GPU memory; None on a CPU."""
    failure: str | None = None

    @property
    def frames_per_s(self) -> float | None:
        """Frames per second of all slots together."""
        return self.run.slots / self.step_s if self.step_s else None


class WholePrompt(nn.Module):
    """The language model as the reference runs it: it computes all positions, of which one is used."""

    def __init__(self, language: LanguageModel) -> None:
        super().__init__()
        self.language = language

    def forward(self, vision: Tensor) -> Tensor:
        """Map vision tokens (B, N, D) to the planning token (B, D)."""
        return self.language.hidden_states(vision)[:, self.language.waypoint]


def reduced(config: OrionConfig) -> OrionConfig:
    """Return a configuration with the same widths and few layers, for a CPU."""
    decoder = DecoderConfig(layers=1)
    return dataclasses.replace(
        config,
        backbone=BackboneConfig(depth=1, global_blocks=(0,)),
        detection=dataclasses.replace(config.detection, decoder=decoder),
        lanes=dataclasses.replace(config.lanes, decoder=decoder),
        language=dataclasses.replace(config.language, layers=2),
    )


def frames(preset: OrionPreset, slots: int, index: int, *, pin: bool) -> OrionBatch:
    """Return frame ``index`` of ``slots`` clips: images of noise, while the vehicle drives straight on."""
    width, height = preset.images.cropped
    pose = torch.eye(4).repeat(slots, 1, 1)
    pose[:, 1, 3] = index
    camera = torch.tensor([[450.0, 320, 0, -370], [0, 280, -910, -550], [0, 1, 0, -1.2], [0, 0, 0, 1]])
    generator = torch.Generator().manual_seed(index)
    images = torch.randint(0, 256, (slots, CAMERAS, 3, height, width), dtype=torch.uint8, generator=generator)
    return OrionBatch(
        clips=tuple(f"clip {slot}" for slot in range(slots)),
        images=images.pin_memory() if pin else images,
        lidar2img=camera.expand(slots, CAMERAS, 4, 4),
        ego_pose=pose,
        ego_pose_inv=torch.linalg.inv(pose),
        timestamp_s=torch.full((slots,), index * FRAME_S, dtype=torch.float64),
        command=torch.zeros(slots, dtype=torch.int64),
        can_bus=torch.zeros(slots, 18, dtype=torch.float64),
    )


def copy_memory(memory: Any) -> Any:
    """Copy a memory, so that a CUDA graph cannot overwrite it."""
    if isinstance(memory, Tensor):
        return memory.clone()
    return type(memory)(*(copy_memory(getattr(memory, field.name)) for field in dataclasses.fields(memory)))


def measure(teacher: OrionTeacher, preset: OrionPreset, run: Run, *, warm_up: int, steps: int) -> Measured:
    """Time steps of the teacher; running out of memory or failing to compile is a result as well."""
    cuda = teacher.device == "cuda"
    model, language = teacher.model, teacher.model.language_model
    torch.compiler.reset()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    batches = [frames(preset, run.slots, index, pin=cuda) for index in range(warm_up + steps)]
    took_s = []
    try:
        if run.whole_prompt:
            model.set_submodule("language_model", WholePrompt(language))
        if run.compiled:
            teacher.model = cast("Orion", torch.compile(model, mode=run.compiled, fullgraph=True))
        state = teacher.begin(run.slots)
        for batch in batches:
            begun = time.perf_counter()
            outputs, state = teacher.step(batch, state)
            for values in outputs.values():
                values.cpu()
            if run.compiled:
                state = dataclasses.replace(state, memory=copy_memory(state.memory))
            took_s.append(time.perf_counter() - begun)
    except RuntimeError as error:
        if not (run.compiled or isinstance(error, torch.OutOfMemoryError)):
            raise
        return Measured(run, failure=f"{type(error).__name__}: {error}".splitlines()[0])
    finally:
        teacher.model, model.language_model = model, language
    peak = torch.cuda.max_memory_allocated() if cuda else None
    return Measured(run, statistics.median(took_s[warm_up:]), peak)


def flops(config: OrionConfig, *, whole_prompt: bool) -> int:
    """Return the floating-point operations of one frame of one slot."""
    model = build(config).to("meta")
    if whole_prompt:
        model.set_submodule("language_model", WholePrompt(model.language_model))
    side = config.backbone.image_size
    double = torch.float64
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(
            torch.empty(1, CAMERAS, 3, side, side),
            torch.empty(1, CAMERAS, 4, 4),
            torch.empty(1, 4, 4),
            torch.empty(1, 4, 4),
            torch.empty(1, dtype=double),
            torch.empty(1, 19, dtype=double),
            torch.empty(1, dtype=torch.bool),
            OrionMemory.empty(config, 1, "meta"),
        )
    return counter.get_total_flops()


def main(
    steps: Annotated[int | None, typer.Option(help="Timed steps. [16 on a GPU, 1 on a CPU]")] = None,
    slots: Annotated[
        list[int] | None, typer.Option(help="Clips that advance together. [1, 4, 8, 16 on a GPU, 1 on a CPU]")
    ] = None,
    compiled: Annotated[
        list[str] | None,
        typer.Option(
            help="Modes of torch.compile. [reduce-overhead, max-autotune-no-cudagraphs; none on a CPU]"
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for the results.")] = None,
) -> None:
    """Time the teacher and print a table of ratios."""
    cuda = torch.cuda.is_available()
    device = "cuda" if cuda else "cpu"
    config = ORION_7B.config if cuda else reduced(ORION_7B.config)
    preset = dataclasses.replace(ORION_7B, config=config, random_seed=0)
    steps, warm_up = steps or (16 if cuda else 1), 3 if cuda else 1
    slots = slots or ([1, 4, 8, 16] if cuda else [1])
    modes = compiled or (["reduce-overhead", "max-autotune-no-cudagraphs"] if cuda else [])

    precisions = (
        list(TYPES)
        if cuda
        else [name for name in TYPES if name == REFERENCE.precision or faster_than_fp32(name)]
    )
    peaks = {precision: peak_flops_per_s(precision, device) for precision in precisions}
    counts = {whole: flops(config, whole_prompt=whole) for whole in (True, False)}
    measured: list[Measured] = []
    for precision in precisions:
        runs = [Run(precision, count) for count in slots]
        if precision == REFERENCE.precision:
            runs = [REFERENCE, Run(precision, slots=1)]
        else:
            runs += [Run(precision, max(slots), compiled=mode) for mode in modes]
        teacher = preset.load(None, device=device, precision=precision)
        measured += [measure(teacher, preset, run, warm_up=warm_up, steps=steps) for run in runs]
        del teacher

    report(measured, counts, peaks, reduced_depth=not cuda)
    numbers = {
        "reduced_depth": not cuda,
        "sizes": dataclasses.asdict(config),
        "flops_per_frame": {"whole prompt": counts[True], "ours": counts[False]},
        "precisions_slower_than_fp32": [name for name in TYPES if name not in precisions],
        "matrix_product_flops_per_s": peaks,
        "steps": steps,
        "runs": [dataclasses.asdict(m) | {"frames_per_s": m.frames_per_s} for m in measured],
    }
    write("gpu_extraction", numbers, out)


def report(
    measured: list[Measured],
    counts: dict[bool, int],
    peaks: dict[str, float],
    *,
    reduced_depth: bool,
) -> None:
    """Print one row per run."""
    title = f"ORION on {hardware()}" + (", NO GPU: most layers left out" if reduced_depth else "")
    table = Table(title=title)
    table.add_column("run", no_wrap=True)
    for column in ("frames/s", "x reference", "TFLOP/s", "of peak", "peak memory"):
        table.add_column(column, justify="right")
    first = measured[0].frames_per_s
    for m in measured:
        if m.frames_per_s is None or first is None:
            table.add_row(m.run.name, m.failure or "-")
            continue
        achieved = counts[m.run.whole_prompt] * m.frames_per_s
        table.add_row(
            m.run.name,
            f"{m.frames_per_s:.3g}",
            f"{m.frames_per_s / first:.2f}",
            f"{achieved / TERA:.3g}",
            f"{achieved / peaks[m.run.precision]:.0%}",
            "-" if m.peak_bytes is None else f"{m.peak_bytes / 2**30:.1f} GiB",
        )
    console = Console()
    console.print(table)
    console.print(
        f"{counts[False] / TERA:.2f} TFLOP per frame, {counts[True] / TERA:.2f} with the whole prompt; "
        "peaks: " + ", ".join(f"{name} {value / TERA:.3g} TFLOP/s" for name, value in peaks.items())
    )
    if slow := [name for name in TYPES if name not in peaks]:
        console.print(f"not run, because slower than fp32 here: {', '.join(slow)}")


if __name__ == "__main__":
    typer.run(main)

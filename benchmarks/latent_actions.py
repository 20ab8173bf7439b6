"""A Qwen2.5-VL-3B that tells latent actions: frames a second, memory, and what 16 bits change.

    python -m benchmarks.latent_actions                # random weights at the released sizes, on a GPU
    python -m benchmarks.latent_actions --slots 8 --precision bf16 --repeats 20
    python -m benchmarks.latent_actions --dry          # tiny width, to see that it runs; so on a CPU

A step is one frame a slot: images and prompt from host memory, twelve codes one after the other, features in
host memory. Weights are random, so that 16 bits are compared where no code has been chosen yet: at the logits
of the first one, and at the states of the images.
"""

from __future__ import annotations

import dataclasses
import gc
import statistics
import time
from pathlib import Path  # noqa: TC003 - typer reads it
from typing import TYPE_CHECKING, Annotated

import torch
import typer

from benchmarks.record import Record
from cache_schema.vocabulary.driving import COMMANDS
from pipeline.extraction.outputs import HostOutputs
from pipeline.teachers.latent_action_vlm.presets import LATENTVLA_3B, LATENTVLA_TINY
from pipeline.teachers.latent_action_vlm.prompt import EgoState
from pipeline.teachers.latent_action_vlm.teacher import FrameInputs

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.teachers.latent_action_vlm.teacher import LatentActionTeacher

WARM_UP = 2


def frames(teacher: LatentActionTeacher, slots: int) -> list[FrameInputs]:
    """Draw frames, with prompts of several lengths."""
    draw = torch.Generator().manual_seed(0)
    width, height = teacher.options.image_size
    size = (len(teacher.options.cameras), 3, height, width)
    return [
        FrameInputs(
            torch.randint(0, 256, size, dtype=torch.uint8, generator=draw),
            teacher.prompt.ids(EgoState(slot % len(COMMANDS), speed=5.0 * slot)),
        )
        for slot in range(slots)
    ]


def step(teacher: LatentActionTeacher, inputs: list[FrameInputs]) -> dict[str, Tensor]:
    """Compute one frame a slot, and wait for it."""
    values, _ = teacher.step(teacher.collate(inputs), None)
    HostOutputs(values, len(inputs)).wait()
    return values


def main(
    slots: Annotated[list[int], typer.Option(min=1)] = [1, 4, 16],  # noqa: B006 - typer copies it
    precision: Annotated[list[str], typer.Option()] = ["fp32", "bf16", "fp16"],  # noqa: B006
    repeats: Annotated[int, typer.Option(min=1)] = 10,
    dry: Annotated[bool, typer.Option("--dry", help="Tiny width.")] = False,
    out: Annotated[Path | None, typer.Option()] = None,
) -> None:
    """Measure, and print and write every number."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dry = dry or device == "cpu"
    preset = LATENTVLA_TINY if dry else LATENTVLA_3B
    preset = dataclasses.replace(preset, random_seed=0, random_device=device)
    record = Record("latent-actions", out, quick=dry, preset=preset.name, options=preset.options.model_dump())
    exact: dict[str, Tensor] = {}
    for name in precision:
        teacher = preset.load(None, device=device, precision=name)
        teacher.begin(1)
        for count in slots:
            inputs = frames(teacher, count)
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            for _ in range(WARM_UP):
                values = step(teacher, inputs)
            seconds = []
            for _ in range(repeats):
                begun = time.perf_counter()
                again = step(teacher, inputs)
                seconds.append(time.perf_counter() - begun)
            row = {
                "precision": name,
                "slots": count,
                "frames/s": count / statistics.median(seconds),
                "GiB": torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None,
                "same bits twice": all(torch.equal(values[key], again[key]) for key in values),
            }
            memory = "" if row["GiB"] is None else f", {row['GiB']:.1f} GiB"
            record.add("rows", value=row, line=f"{name} x {count}: {row['frames/s']:.2f} frames/s{memory}")
        first = {key: value[:1].float().cpu() for key, value in step(teacher, frames(teacher, 1)).items()}
        first["code_logits"] = first["code_logits"][:, 0]
        exact = exact or first
        errors = {
            key: (first[key] - exact[key]).abs().max().item() / exact[key].abs().max().item()
            for key in ("code_logits", "vis_pooled")
        }
        told = ", ".join(f"{key} {error:.1e}" for key, error in errors.items())
        record.set("error", name, value=errors, line=f"{name} against {precision[0]}: {told}")
        del teacher
        gc.collect()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    typer.run(main)

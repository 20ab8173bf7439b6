"""Teachers by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache_schema.errors import RequestError
from cache_schema.plugins import require, resolve
from cache_schema.progress import SILENT
from pipeline.teachers.protocol import check_teacher

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cache_schema.progress import Progress
    from pipeline.teachers.protocol import Teacher, TeacherPreset

TEACHERS = {
    "autovla-3b": "pipeline.teachers.latent_action_vlm.presets:AUTOVLA_3B",
    "latentvla-3b": "pipeline.teachers.latent_action_vlm.presets:LATENTVLA_3B",
    "latentvla-tiny": "pipeline.teachers.latent_action_vlm.presets:LATENTVLA_TINY",
    "orion-7b": "pipeline.teachers.orion.presets:ORION_7B",
    "orion-tiny": "pipeline.teachers.orion.presets:ORION_TINY",
    "orion-tiny-random": "pipeline.teachers.orion.presets:ORION_TINY_RANDOM",
    "internvl3-8b": "pipeline.teachers.internvl3.presets:INTERNVL3_8B",
    "internvl3-14b": "pipeline.teachers.internvl3.presets:INTERNVL3_14B",
    "internvl3-38b": "pipeline.teachers.internvl3.presets:INTERNVL3_38B",
    "internvl3-tiny": "pipeline.teachers.internvl3.presets:INTERNVL3_TINY",
    "internvl3-1b-vision": "pipeline.teachers.internvl3.presets:INTERNVL3_1B_VISION",
    "internvl3-1b-pixels": "pipeline.teachers.internvl3.presets:INTERNVL3_1B_PIXELS",
    "internvl3-tiny-vision": "pipeline.teachers.internvl3.presets:INTERNVL3_TINY_VISION",
    "internvl3-tiny-pixels": "pipeline.teachers.internvl3.presets:INTERNVL3_TINY_PIXELS",
}
"""Preset name -> where it is defined."""


def teacher_preset(name: str, options: Mapping[str, str] = {}) -> TeacherPreset:
    """Return a preset by name, or one of the user's own by ``package.module:NAME``.

    Args:
        name: Its name.
        options: Field -> value, as texts, of what the user wants otherwise; see ``TeacherPreset.configured``.

    Raises:
        RequestError: There is no such teacher, it lacks something, or it has no such option.
    """
    preset = resolve(TEACHERS, name, kind="teacher", needs="load")
    require(preset, f"the teacher {name}", "kind", "features", "load")
    if not options:
        return preset
    if not hasattr(preset, "configured"):
        raise RequestError(
            f"the teacher {name} has no options, such as {', '.join(options)}",
            expected="a teacher whose preset has a method 'configured'",
            repair="leave the options out, or choose another --teacher",
        )
    return preset.configured(options)


def load_teacher(
    name: str,
    checkpoint: Path | None,
    *,
    device: str | None = None,
    precision: str = "fp32",
    quantize: str | None = None,
    compile: bool | None = None,
    options: Mapping[str, str] = {},
    progress: Progress = SILENT,
) -> Teacher:
    """Load a preset's teacher; by default on this machine's GPU, if it has one, and there compiled.

    Args:
        name: As of ``teacher_preset``.
        checkpoint: Weights, and the further arguments: see ``TeacherPreset.load``.
        device: Where it runs.
        precision: Number format of its large parts.
        quantize: Quantisation of its language model.
        compile: Whether it is compiled.
        options: As of ``teacher_preset``.
        progress: Counts tensors.

    Raises:
        RequestError: There is no such teacher, it lacks something, it has no such option, or the GPU's memory
            does not suffice.
    """
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        teacher = teacher_preset(name, options).load(
            checkpoint,
            device=device,
            precision=precision,
            quantize=quantize,
            compile=torch.device(device).type == "cuda" if compile is None else compile,
            progress=progress,
        )
    except torch.OutOfMemoryError as error:
        raise RequestError(
            f"the GPU's memory does not suffice for the weights of {name}: {error}",
            expected="room for all weights, and for what a step computes",
            repair="choose --precision fp16 or --quantize nf4, which change the features; or a larger GPU",
        ) from error
    check_teacher(teacher)
    return teacher

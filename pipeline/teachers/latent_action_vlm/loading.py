"""Loading a teacher of latent actions: from a folder of Qwen2.5-VL, or with random weights."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from transformers import Qwen2_5_VLConfig

from cache_schema.errors import RequestError
from cache_schema.progress import SILENT
from pipeline.teachers.latent_action_vlm.checkpoint import (
    check_codes,
    read_config,
    read_tokenizer,
    read_weights,
)
from pipeline.teachers.latent_action_vlm.network import build, complete, place, random_weights, shapes_of
from pipeline.teachers.latent_action_vlm.prompt import IMAGE, VISION_END, VISION_START, ByteTokenizer
from pipeline.teachers.latent_action_vlm.teacher import LatentActionTeacher
from pipeline.teachers.precision import TYPES
from pipeline.teachers.weights import Fingerprint, random_origin

if TYPE_CHECKING:
    from pathlib import Path

    from cache_schema.progress import Progress
    from pipeline.teachers.latent_action_vlm.presets import LatentActionPreset
    from pipeline.teachers.latent_action_vlm.prompt import PromptTokenizer


def load(
    preset: LatentActionPreset,
    checkpoint: Path | None,
    *,
    device: str,
    precision: str = "fp32",
    quantize: str | None = None,
    progress: Progress = SILENT,
) -> LatentActionTeacher:
    """Build a preset's teacher; see ``LatentActionPreset.load``."""
    if precision not in TYPES:
        raise RequestError(
            f"there is no precision {precision!r}",
            expected=f"one of {', '.join(TYPES)}",
            repair="choose one of these precisions",
        )
    if quantize is not None:
        raise RequestError(
            f"the teacher {preset.name} does not come quantised as {quantize}",
            expected="no quantisation",
            repair="leave --quantize out, or choose --precision bf16",
        )
    weights = preset.random_seed if checkpoint is None else checkpoint
    if weights is None:
        raise RequestError(
            f"the teacher {preset.name} needs a checkpoint",
            expected="--checkpoint with the folder of a Qwen2.5-VL that was taught its codes",
            repair="make one from Qwen2.5-VL-3B by `teachonce tune-vlm`, or try latentvla-tiny",
        )
    if isinstance(weights, int):
        config = Qwen2_5_VLConfig(**copy.deepcopy(dict(preset.sizes)))
        tokenizer = byte_tokenizer(config)
        check_codes(preset.options, config, None, preset.name)
    else:
        config, tokenizer = read_config(weights), read_tokenizer(weights)
        check_codes(preset.options, config, tokenizer, weights)
    model = build(config)
    shapes = shapes_of(model)
    progress.expect(len(shapes))
    if isinstance(weights, int):
        for name, weight in random_weights(shapes, weights, preset.random_device):
            place(model, name, weight, device, TYPES[precision])
            progress.advance()
        origin = random_origin(weights, preset.random_device)
    else:
        fingerprint = Fingerprint()
        for name, weight in read_weights(weights, shapes):
            fingerprint.add(name, weight.float())
            place(model, name, weight, device, TYPES[precision])
            progress.advance()
        origin = str(fingerprint)
    complete(model, device)
    return LatentActionTeacher(
        preset.name, preset.options, model, tokenizer, weights=origin, precision=precision
    )


def byte_tokenizer(config: Qwen2_5_VLConfig) -> PromptTokenizer:
    """Return a tokenizer for a model of random weights, to which no text means anything."""
    return ByteTokenizer(
        {
            IMAGE: config.image_token_id,
            VISION_START: config.vision_start_token_id,
            VISION_END: config.vision_end_token_id,
        }
    )

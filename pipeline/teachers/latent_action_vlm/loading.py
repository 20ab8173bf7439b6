"""Loading a teacher of latent actions: from a folder of Qwen2.5-VL, or with random weights."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from transformers import Qwen2_5_VLConfig

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
    from collections.abc import Mapping
    from pathlib import Path

    from cache_schema.progress import Progress
    from pipeline.teachers.latent_action_vlm.options import LatentActionOptions
    from pipeline.teachers.latent_action_vlm.prompt import PromptTokenizer


def load(
    name: str,
    options: LatentActionOptions,
    weights: Path | int,
    sizes: Mapping[str, Any],
    *,
    random_device: str,
    device: str,
    precision: str,
    progress: Progress = SILENT,
) -> LatentActionTeacher:
    """Build a teacher.

    Args:
        name: Part of its identity.
        options: What it is shown and asked, and its codes.
        weights: A folder of Qwen2.5-VL, or the seed of random weights.
        sizes: Arguments of ``Qwen2_5_VLConfig`` for random weights; a folder states its own.
        random_device: Where random weights are drawn.
        device: Where it runs.
        precision: A key of ``TYPES``, of all weights.
        progress: Counts tensors.

    Raises:
        CheckpointError: The folder is no Qwen2.5-VL, or has no free rows for the codes.
        RequestError: Its tokenizer does not fit the model.
    """
    if isinstance(weights, int):
        config = Qwen2_5_VLConfig(**copy.deepcopy(dict(sizes)))
        tokenizer = byte_tokenizer(config)
        check_codes(options, config, None, name)
    else:
        config, tokenizer = read_config(weights), read_tokenizer(weights)
        check_codes(options, config, tokenizer, weights)
    model = build(config)
    shapes = shapes_of(model)
    progress.expect(len(shapes))
    if isinstance(weights, int):
        for key, weight in random_weights(shapes, weights, random_device):
            place(model, key, weight, device, TYPES[precision])
            progress.advance()
        origin = random_origin(weights, random_device)
    else:
        fingerprint = Fingerprint()
        for key, weight in read_weights(weights, shapes):
            fingerprint.add(key, weight.float())
            place(model, key, weight, device, TYPES[precision])
            progress.advance()
        origin = str(fingerprint)
    complete(model, device)
    return LatentActionTeacher(name, options, model, tokenizer, weights=origin, precision=precision)


def byte_tokenizer(config: Qwen2_5_VLConfig) -> PromptTokenizer:
    """Return a tokenizer for a model of random weights, to which no text means anything."""
    return ByteTokenizer(
        {
            IMAGE: config.image_token_id,
            VISION_START: config.vision_start_token_id,
            VISION_END: config.vision_end_token_id,
        }
    )

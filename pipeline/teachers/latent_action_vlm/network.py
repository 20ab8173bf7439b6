"""Qwen2.5-VL by transformers' own classes: built without memory, then given its weights one by one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import Qwen2_5_VLForConditionalGeneration

from pipeline.teachers.weights import uniform

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor
    from transformers import Qwen2_5_VLConfig
    from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import (
        Qwen2_5_VLTextConfig,
        Qwen2_5_VLVisionConfig,
    )

    from pipeline.teachers.latent_action_vlm.checkpoint import Shapes

HEAD = "lm_head.weight"
TEXT_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "rms_norm_eps",
)
VISION_SIZES = (
    "depth",
    "hidden_size",
    "intermediate_size",
    "num_heads",
    "out_hidden_size",
    "fullatt_block_indexes",
    "window_size",
)
"""Sizes that decide values, by their names in transformers. Its versions differ in other entries."""


def build(config: Qwen2_5_VLConfig) -> Qwen2_5_VLForConditionalGeneration:
    """Return a model whose weights are on the meta device; its constants are real."""
    config._attn_implementation = "sdpa"
    with init_empty_weights(include_buffers=False):
        return Qwen2_5_VLForConditionalGeneration(config).eval().requires_grad_(False)


def shapes_of(model: Qwen2_5_VLForConditionalGeneration) -> Shapes:
    """Return every weight of a model. A head that is tied to the embedding is none."""
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters(remove_duplicate=False)}
    if model.config.tie_word_embeddings:
        del shapes[HEAD]
    return shapes


def place(
    model: Qwen2_5_VLForConditionalGeneration, name: str, weight: Tensor, device: str, dtype: torch.dtype
) -> None:
    """Give a model one weight, on a device and in the type that it is computed with."""
    path, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(path), leaf, nn.Parameter(weight.to(device, dtype), requires_grad=False))


def complete(model: Qwen2_5_VLForConditionalGeneration, device: str) -> None:
    """Prepare a model whose weights have all been placed for its first step."""
    if model.config.tie_word_embeddings:
        model.lm_head.weight = model.model.language_model.get_input_embeddings().weight
    for module in model.modules():
        for name, constant in module.named_buffers(recurse=False):
            setattr(module, name, constant.to(device))


def random_weights(shapes: Shapes, seed: int, device: str = "cpu") -> Iterator[tuple[str, Tensor]]:
    """Draw every weight, sorted by name; see ``uniform``.

    Matrices keep the variance of their inputs, also the embedding, which is the head as well. Biases are
    zero, norms the identity.
    """
    for name in sorted(shapes):
        shape = shapes[name]
        if len(shape) == 1:
            constant = torch.ones if name.endswith(".weight") else torch.zeros
            yield name, constant(shape, device=device)
        else:
            spread = math.sqrt(3 / math.prod(shape[1:]))
            yield name, (uniform(name, shape, seed, device) * 2 - 1) * spread


def sizes_of(config: Qwen2_5_VLConfig) -> dict[str, Any]:
    """Return what of a configuration decides values, as JSON has it."""
    text: Qwen2_5_VLTextConfig = config.text_config  # ty: ignore[invalid-assignment]
    vision: Qwen2_5_VLVisionConfig = config.vision_config  # ty: ignore[invalid-assignment]
    rope = text.rope_parameters or {}
    return {
        "text": {name: getattr(text, name) for name in TEXT_SIZES}
        | {"rope_theta": rope.get("rope_theta"), "mrope_section": list(rope.get("mrope_section") or ())},
        "vision": {name: getattr(vision, name) for name in VISION_SIZES}
        | {"fullatt_block_indexes": list(vision.fullatt_block_indexes)},
        "tied": config.tie_word_embeddings,
    }

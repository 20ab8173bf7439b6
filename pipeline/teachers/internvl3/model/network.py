"""InternVL3 by transformers' own classes: built without memory, then given its weights one by one.

Names of weights are those of transformers' ``InternVLForConditionalGeneration``.
"""

from __future__ import annotations

import copy
import functools
import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLModel
from transformers.models.qwen2.modeling_qwen2 import Qwen2RotaryEmbedding

from pipeline.teachers.weights import uniform

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import InternVLVisionConfig, Qwen2Config

    from pipeline.teachers.internvl3.model.sizes import InternVLSizes

PREFIX = "model."
"""Of the names of all weights but the language model's head."""

Shapes = dict[str, tuple[int, ...]]


def configuration(sizes: InternVLSizes) -> InternVLConfig:
    """Return transformers' description of a model.

    Its two embeddings are not tied, on no level: transformers' default ties them, and one of them would be
    lost (spec Drive-KD 2.1).
    """
    return InternVLConfig(**copy.deepcopy(sizes.arguments()))


@functools.cache
def shapes(sizes: InternVLSizes) -> Shapes:
    """Return every weight of a whole model."""
    with torch.device("meta"):
        model = InternVLForConditionalGeneration(configuration(sizes))
    return {name: tuple(weight.shape) for name, weight in model.state_dict().items()}


def build(sizes: InternVLSizes, language_layers: int) -> InternVLModel:
    """Return a model without its head, whose language model ends after some layers and has no last norm.

    Its weights are on the meta device. The language model's attention is eager, which alone has maps.
    """
    language = replace(sizes.language, layers=language_layers)
    config = configuration(replace(sizes, language=language))
    text: Qwen2Config = config.text_config  # ty: ignore[invalid-assignment]
    vision: InternVLVisionConfig = config.vision_config  # ty: ignore[invalid-assignment]
    text._attn_implementation, vision._attn_implementation = "eager", "sdpa"
    with torch.device("meta"):
        model = InternVLModel(config)
    model.language_model.norm = nn.Identity()
    model.language_model.rotary_emb = Qwen2RotaryEmbedding(text)
    return model.eval().requires_grad_(False)


def place(model: InternVLModel, name: str, weight: Tensor, device: str, dtype: torch.dtype) -> None:
    """Give a model one of the weights of the whole model, unless it has no use for it."""
    path, _, leaf = name.removeprefix(PREFIX).rpartition(".")
    try:
        owner = model.get_submodule(path)
    except AttributeError:
        return  # a layer that nothing reads, or the head
    if leaf in owner._parameters:
        setattr(owner, leaf, nn.Parameter(weight.to(device, dtype), requires_grad=False))


def random_weights(sizes: InternVLSizes, seed: int, device: str = "cpu") -> Iterator[tuple[str, Tensor]]:
    """Draw every weight of a whole model, sorted by name; see ``uniform``.

    Matrices keep the variance of their inputs, embeddings have variance 1. Biases are zero, norms and the
    scales of the vision tower's layers the identity.
    """
    for name, shape in sorted(shapes(sizes).items()):
        path, _, leaf = name.rpartition(".")
        if leaf == "bias":
            yield name, torch.zeros(shape, device=device)
        elif len(shape) == 1:
            yield name, torch.ones(shape, device=device)
        else:
            looked_up = leaf in ("cls_token", "position_embeddings") or path.endswith("embed_tokens")
            variance = 1.0 if looked_up else 1.0 / math.prod(shape[1:])
            yield name, (uniform(name, shape, seed, device) * 2 - 1) * math.sqrt(3 * variance)

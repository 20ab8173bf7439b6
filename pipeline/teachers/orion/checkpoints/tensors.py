"""The tensors of a teacher of given sizes, and random values for all of them.

Names are those of ``Orion``'s state dict; the planner's are the checkpoint's own behind ``planner.``.
"""

from __future__ import annotations

import hashlib
import math
import re
from typing import TYPE_CHECKING

import torch

from cache_schema.vocabulary.driving import COMMANDS, TRAJECTORY_STEPS
from pipeline.teachers.orion.network.model import Orion

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from pipeline.teachers.orion.network.config import OrionConfig

PLANNER_PREFIX = "planner."

LATENT = 32
"""Width of the planner's Gaussian."""

GRU_LAYERS = 4

_TABLE = re.compile(r"(embedding|embedding_lane|embed_tokens|query|pos_embed)(\.weight)?$")
"""Weights that are looked up or added, not multiplied with."""

Shapes = dict[str, tuple[int, ...]]


def build(config: OrionConfig) -> Orion:
    """Return the model with weights on the meta device; its constants are real."""
    with torch.device("meta"):
        return Orion(config).eval().requires_grad_(False)


def teacher_shapes(config: OrionConfig) -> Shapes:
    """Return every tensor a teacher needs: the model's and the planner's."""
    planner = {PLANNER_PREFIX + name: shape for name, shape in planner_shapes(config).items()}
    return model_shapes(config) | planner


def model_shapes(config: OrionConfig) -> Shapes:
    """Return the tensors of ``Orion``'s state dict."""
    return {name: tuple(weight.shape) for name, weight in build(config).state_dict().items()}


def planner_shapes(config: OrionConfig) -> Shapes:
    """Return the planner's 44 tensors (spec ORION teacher 1.8), under the checkpoint's names."""
    width = config.language.width
    shapes: Shapes = {}

    def linear(name: str, outputs: int, inputs: int, *kernel: int) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs, *kernel)
        shapes[f"{name}.bias"] = (outputs,)

    for name, inputs in (
        ("present_distribution", width),
        ("future_distribution", width + 2 * TRAJECTORY_STEPS),
    ):
        linear(f"{name}.encoder.conv1", 2 * inputs, inputs, 1)
        linear(f"{name}.encoder.conv2", 2 * inputs, 2 * inputs, 1)
        linear(f"{name}.encoder.conv3", inputs // 2, 2 * inputs, 1)
        linear(f"{name}.last_conv.1", 2 * LATENT, inputs // 2, 1)
    hidden = width // GRU_LAYERS
    for layer in range(GRU_LAYERS):
        shapes[f"predict_model.gru.weight_ih_l{layer}"] = (3 * hidden, hidden if layer else LATENT)
        shapes[f"predict_model.gru.weight_hh_l{layer}"] = (3 * hidden, hidden)
        shapes[f"predict_model.gru.bias_ih_l{layer}"] = (3 * hidden,)
        shapes[f"predict_model.gru.bias_hh_l{layer}"] = (3 * hidden,)
    linear("predict_model.linear1", width // 2, hidden)
    linear("predict_model.linear2", width, width // 2)
    linear("predict_model.linear3", width, width)
    linear("ego_fut_decoder.0", 2 * width, 2 * width)
    linear("ego_fut_decoder.2", 2 * width, 2 * width)
    linear("ego_fut_decoder.4", 2 * len(COMMANDS), 2 * width)
    return shapes


def random_weights(shapes: Shapes, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Draw every tensor, the same on every machine and independent of the other tensors.

    Matrices keep the variance of their inputs, embeddings have variance 1, reference points fill
    0..1, norms start as the identity and biases at zero. All are uniform, because then their bits come
    straight from the generator.
    """
    for name in sorted(shapes):
        yield name, _random_tensor(name, shapes[name], seed)


def _random_tensor(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    if "reference_points." in name:
        return _uniform(name, shape, seed)
    if len(shape) == 1:
        return torch.ones(shape) if name.endswith(".weight") else torch.zeros(shape)  # norms, biases
    variance = 1.0 if _TABLE.search(name) else 1.0 / math.prod(shape[1:])
    return (_uniform(name, shape, seed) * 2 - 1) * math.sqrt(3 * variance)


def _uniform(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7]))
    return torch.rand(shape, generator=generator)

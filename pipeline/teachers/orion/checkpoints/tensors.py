"""The tensors of a teacher of given sizes, and random values for all of them.

Names are those of ``Orion``'s state dict; the planner's are the checkpoint's own behind ``planner.``.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, TypeVar

import torch

from cache_schema.vocabulary.orion import planner_shapes
from pipeline.teachers.orion.network.model import Orion
from pipeline.teachers.orion.network.vision import VisionStack
from pipeline.teachers.weights import uniform

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from pipeline.teachers.orion.network.config import OrionConfig

PLANNER_PREFIX = "planner."

_TABLE = re.compile(r"(embedding|embedding_lane|embed_tokens|query|pos_embed)(\.weight)?$")
"""Weights that are looked up or added, not multiplied with."""

Shapes = dict[str, tuple[int, ...]]
Model = TypeVar("Model", bound=VisionStack)


def build(config: OrionConfig) -> Orion:
    """Return the model with weights on the meta device; its constants are real."""
    return build_part(Orion, config)


def build_part(kind: type[Model], config: OrionConfig) -> Model:
    """Return the model, or its vision stack alone, with weights on the meta device."""
    with torch.device("meta"):
        return kind(config).eval().requires_grad_(False)


def teacher_shapes(config: OrionConfig) -> Shapes:
    """Return every tensor a teacher needs: the model's and the planner's."""
    return model_shapes(config) | prefixed_planner_shapes(config)


def prefixed_planner_shapes(config: OrionConfig) -> Shapes:
    """Return the planner's tensors, behind their prefix."""
    return {PLANNER_PREFIX + name: shape for name, shape in planner_shapes(config.language.width).items()}


def model_shapes(config: OrionConfig) -> Shapes:
    """Return the tensors of ``Orion``'s state dict."""
    return {name: tuple(weight.shape) for name, weight in build(config).state_dict().items()}


def random_weights(shapes: Shapes, seed: int, device: str = "cpu") -> Iterator[tuple[str, Tensor]]:
    """Draw every tensor, independent of the other tensors; on the CPU the same on every machine.

    Matrices keep the variance of their inputs, embeddings have variance 1, reference points fill
    0..1, norms start as the identity and biases at zero. All are uniform, because then their bits come
    straight from the generator.

    Args:
        shapes: Tensors to draw.
        seed: Each tensor's generator is seeded with it and the tensor's name.
        device: Where they are drawn, and stay. Every kind of device has numbers of its own: a GPU draws the
            released sizes in a second, which take a core a minute, but they are other weights.
    """
    for name in sorted(shapes):
        yield name, _random_tensor(name, shapes[name], seed, device)


def random_planner(config: OrionConfig, seed: int, device: str = "cpu") -> dict[str, Tensor]:
    """Draw the planner of a teacher with random weights, under the checkpoint's names, on the host."""
    drawn = random_weights(planner_shapes(config.language.width), seed, device)
    return {name: weight.cpu() for name, weight in drawn}


def _random_tensor(name: str, shape: tuple[int, ...], seed: int, device: str) -> Tensor:
    if "reference_points." in name:
        return uniform(name, shape, seed, device)
    if len(shape) == 1:  # norms, biases
        constant = torch.ones if name.endswith(".weight") else torch.zeros
        return constant(shape, device=device)
    variance = 1.0 if _TABLE.search(name) else 1.0 / math.prod(shape[1:])
    return (uniform(name, shape, seed, device) * 2 - 1) * math.sqrt(3 * variance)

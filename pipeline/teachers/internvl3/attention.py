"""Attention of a language model, averaged over heads layer by layer as it runs.

No more than one layer's heads are held at a time: a hook averages them in float32 and drops them.

Dimension letters: H head, R token that attends (of one pass), N token that is attended to (of the cache and
of the pass), L group of layers.

Source: spec Drive-KD 5.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

    from pipeline.teachers.internvl3.windows import Group


@dataclass(frozen=True)
class LayersRead:
    """Which layers' attention is kept, and how."""

    first: bool
    """Whether the first layer's is."""
    penultimate: int | None
    """Number of the last layer but one, if its attention is kept."""
    groups: tuple[Group, ...]
    """Groups of layers whose mean is kept."""

    @property
    def depth(self) -> int:
        """Layers that the model needs: up to the last one that is read."""
        last = [group.last for group in self.groups]
        return 1 + max([0, *last, *([] if self.penultimate is None else [self.penultimate])])


class Maps(NamedTuple):
    """Attention of one pass, float32; None for what is not read."""

    first: Tensor | None
    """(R, N)."""
    penultimate: Tensor | None
    """(R, N)."""
    groups: Tensor | None
    """(L, R, N)."""


class AttentionReader:
    """Reads the attention of a language model from now on.

    Args:
        layers: Its layers, whose ``self_attn`` returns its output and the (1, H, R, N) weights.
        read: Which of them are read.
    """

    def __init__(self, layers: Iterable[nn.Module], read: LayersRead) -> None:
        self._read = read
        self._maps: dict[str, Tensor] = {}
        for number, layer in enumerate(layers):
            attention: nn.Module = layer.self_attn  # ty: ignore[invalid-assignment]
            attention.register_forward_hook(functools.partial(self._take, number))

    def take(self) -> Maps:
        """Return the attention of the last pass, and forget it."""
        maps, self._maps = self._maps, {}
        groups = maps.get("groups")
        if groups is not None:
            for group, total in zip(self._read.groups, groups, strict=True):
                total /= group.last - group.first + 1
        return Maps(maps.get("first"), maps.get("penultimate"), groups)

    def _take(self, number: int, _module: nn.Module, _inputs: object, output: tuple[Tensor, Tensor]) -> tuple:
        hidden, weights = output
        read = self._read
        members = [place for place, group in enumerate(read.groups) if group.first <= number <= group.last]
        is_first, is_penultimate = read.first and number == 0, number == read.penultimate
        if members or is_first or is_penultimate:
            mean = weights[0].mean(dim=0, dtype=torch.float32)
            if is_first:
                self._maps["first"] = mean
            if is_penultimate:
                self._maps["penultimate"] = mean
            if members:
                if "groups" not in self._maps:
                    self._maps["groups"] = mean.new_zeros(len(read.groups), *mean.shape)
                self._maps["groups"][members[0] : members[-1] + 1] += mean
        return hidden, None

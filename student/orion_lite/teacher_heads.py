"""The teacher's projections from stored queries to vision tokens: constants of a dataset.

A vision token is D wide, the query that it is a linear map of only E. The student's first layer is linear,
too, so that both maps are multiplied into one E -> H instead of widening every query.

Dimension letters: B batch, N vision token, R row of a stored feature, E width of such a row, D token width,
H hidden width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cache_schema.format.derivations import Derivation


class Part(NamedTuple):
    """Consecutive vision tokens that come from one stored feature in one way."""

    feature: str
    begin: int
    """The first of the feature's rows."""
    length: int
    projection: str | None
    """Name of the linear map; None for rows that are tokens already."""


class TeacherHeads(nn.Module):
    """The linear maps, as buffers that follow the model to its device and stay out of its weights.

    Args:
        derivation: How vision tokens follow from stored features.
        maps: ``NAME.weight`` (D, E) and ``NAME.bias`` (D) of each of its projections.
    """

    def __init__(self, derivation: Derivation, maps: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.parts = _parts(derivation)
        self.projections = tuple(dict.fromkeys(part.projection for part in self.parts if part.projection))
        for name in self.projections:
            self.register_buffer(f"{name}_weight", maps[f"{name}.weight"], persistent=False)
            self.register_buffer(f"{name}_bias", maps[f"{name}.bias"], persistent=False)

    def folded(self, projection: str, layer: nn.Linear) -> tuple[Tensor, Tensor]:
        """Return weight (H, E) and bias (H) of a projection followed by a layer D -> H."""
        weight, bias = self.get_buffer(f"{projection}_weight"), self.get_buffer(f"{projection}_bias")
        return layer.weight @ weight, layer.weight @ bias + layer.bias

    def project(self, features: Mapping[str, Tensor], layer: nn.Linear) -> Tensor:
        """Return what a layer D -> H makes of the vision tokens, (B, N, H).

        Args:
            features: Stored feature -> (B, R, E), or (B, D) for a single token.
            layer: The student's first.
        """
        return torch.cat(
            [
                layer(rows)
                if part.projection is None
                else F.linear(rows, *self.folded(part.projection, layer))
                for part, rows in split(self.parts, features)
            ],
            dim=1,
        )


def split(parts: Sequence[Part], features: Mapping[str, Tensor]) -> Iterator[tuple[Part, Tensor]]:
    """Yield the parts of the vision tokens and their rows (B, R, E), before they are projected.

    Args:
        parts: In order.
        features: Stored feature -> (B, R, E), or (B, D) for a single token.
    """
    for part in parts:
        values = features[part.feature]
        rows = values[:, None] if values.dim() == 2 else values
        yield part, rows[:, part.begin : part.begin + part.length]


def _parts(derivation: Derivation) -> tuple[Part, ...]:
    """Merge segments that lie behind one another and pass through the same projection."""
    parts: list[Part] = []
    for segment in derivation.segments:
        part = Part(segment.input, segment.begin, segment.length, segment.projection)
        last = parts[-1] if parts else None
        if (
            last is not None
            and (last.feature, last.projection) == (part.feature, part.projection)
            and last.begin + last.length == part.begin
        ):
            parts[-1] = last._replace(length=last.length + part.length)
        else:
            parts.append(part)
    return tuple(parts)

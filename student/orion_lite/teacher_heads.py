"""The teacher's projections from stored queries to vision tokens: constants of a dataset.

A vision token is D wide, the query that it is a linear map of only E. The student's first layer is linear,
too, so that both maps are multiplied into one E -> H instead of widening every query.

Dimension letters: B batch, N vision token, R row of a stored feature, E width of such a row, D token width,
H hidden width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cache_schema.format.derivations import Derivation, DerivedSegment


class TeacherHeads(nn.Module):
    """The linear maps, as buffers that follow the model to its device and stay out of its weights.

    Args:
        derivation: How vision tokens follow from stored features.
        maps: ``NAME.weight`` (D, E) and ``NAME.bias`` (D) of each of its projections.
    """

    def __init__(self, derivation: Derivation, maps: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.segments = _merged(derivation.segments)
        self.projections = tuple(dict.fromkeys(s.projection for s in self.segments if s.projection))
        for name in self.projections:
            self.register_buffer(f"{name}_weight", maps[f"{name}.weight"], persistent=False)
            self.register_buffer(f"{name}_bias", maps[f"{name}.bias"], persistent=False)

    def folded(self, projection: str, layer: nn.Linear) -> tuple[Tensor, Tensor]:
        """Return weight (H, E) and bias (H) of a projection followed by a layer D -> H."""
        weight, bias = self.get_buffer(f"{projection}_weight"), self.get_buffer(f"{projection}_bias")
        return layer.weight @ weight, layer.weight @ bias + layer.bias

    def project(self, features: Mapping[str, Tensor], layer: nn.Linear) -> Tensor:
        """Return what a layer D -> H makes of the vision tokens, (B, N, H).

        Stored features are (B, R, E), or (B, D) for a single token.
        """
        projected = [
            layer(rows) if projection is None else F.linear(rows, *self.folded(projection, layer))
            for projection, rows in split(self.segments, features)
        ]
        return torch.cat(projected, dim=1)


def split(
    segments: Sequence[DerivedSegment], features: Mapping[str, Tensor]
) -> Iterator[tuple[str | None, Tensor]]:
    """Yield for each segment of the vision tokens its projection and the rows (B, R, E) to be projected."""
    for segment in segments:
        values = features[segment.input]
        rows = values[:, None] if values.dim() == 2 else values
        yield segment.projection, rows[:, segment.begin : segment.begin + segment.length]


def _merged(segments: Sequence[DerivedSegment]) -> tuple[DerivedSegment, ...]:
    """Merge segments that lie behind one another and pass through the same projection."""
    merged: list[DerivedSegment] = []
    for segment in segments:
        place = (segment.input, segment.projection, segment.begin)
        last = merged[-1] if merged else None
        if last is not None and place == (last.input, last.projection, last.begin + last.length):
            merged[-1] = last.model_copy(update={"length": last.length + segment.length})
        else:
            merged.append(segment)
    return tuple(merged)

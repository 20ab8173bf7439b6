"""A student for inference: projections folded into its first layer, no noise, no weights for training only.

Dimension letters: B batch, Q scene query, E query width, D token width, H hidden width, T step, M mode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cache_schema.vocabulary.orion import EGO_TOKEN, SCENE_QUERIES
from student.orion_lite.teacher_heads import split

if TYPE_CHECKING:
    from student.orion_lite.model import OrionLite


class FoldedStudent(nn.Module):
    """Takes over a trained student, which cannot be trained any more.

    Args:
        student: With the teacher's heads, whose projections are multiplied into its first layer.
    """

    def __init__(self, student: OrionLite) -> None:
        super().__init__()
        heads = student.heads
        if heads is None:
            raise ValueError("scene queries can only be read with the teacher's heads")
        del student.future_distribution
        self.student = student.requires_grad_(False)
        self.segments = heads.segments
        for name in heads.projections:
            self.add_module(f"{name}_proj", _linear(*heads.folded(name, student.input_proj)))
        student.heads = None
        self.eval()

    def forward(self, scene_queries: Tensor, ego_token: Tensor) -> tuple[Tensor, Tensor]:
        """Plan for B frames from scene queries (B, Q, E) and ego tokens (B, D).

        Returns:
            The planning token (B, D), and offsets (B, M, T, 2) in metres of each step from the one before, in
            the LiDAR frame (x right, y forward).
        """
        features = {SCENE_QUERIES: scene_queries, EGO_TOKEN: ego_token}
        embedded = [self._layer(projection)(rows) for projection, rows in split(self.segments, features)]
        hidden = torch.cat(embedded, dim=1)  # (B, Q + 1, H)
        predicted = self.student.predict(self.student.norm_input(hidden))
        return predicted.planning_token, predicted.offsets

    def _layer(self, projection: str | None) -> nn.Module:
        return self.student.input_proj if projection is None else self.get_submodule(f"{projection}_proj")


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """Return a layer with this weight (H, E) and bias (H)."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer

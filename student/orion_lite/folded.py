"""A student as it drives: projections multiplied out, no noise, nothing that only training reads.

Dimension letters: B batch, Q scene query, E query width, D token width, H hidden width, T step, M mode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from student.orion_lite.model import OrionLite


class FoldedStudent(nn.Module):
    """Takes a trained student over, which cannot be trained any more.

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
        self.queries_before_ego = heads.queries_before_ego
        weight, bias = student.input_proj.weight, student.input_proj.bias  # (H, D), (H)
        self.scene_proj = _linear(weight @ heads.scene_weight, weight @ heads.scene_bias + bias)
        self.map_proj = _linear(weight @ heads.map_weight, weight @ heads.map_bias + bias)
        student.heads = None
        self.eval()

    def forward(self, scene_queries: Tensor, ego_token: Tensor) -> tuple[Tensor, Tensor]:
        """Drive.

        Args:
            scene_queries: (B, Q, E) queries before the teacher's projection.
            ego_token: (B, D).

        Returns:
            The planning token (B, D), and offsets (B, M, T, 2) in metres of each step from the one before, in
            the LiDAR frame (x right, y forward).
        """
        before, after = scene_queries.tensor_split([self.queries_before_ego], dim=1)
        ego = self.student.input_proj(ego_token)[:, None]
        hidden = torch.cat([self.scene_proj(before), ego, self.map_proj(after)], dim=1)  # (B, Q + 1, H)
        predicted = self.student.predict(self.student.norm_input(hidden))
        return predicted.planning_token, predicted.offsets


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """Make a layer of its weight (H, E) and bias (H)."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer

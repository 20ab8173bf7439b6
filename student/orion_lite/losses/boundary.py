"""Distance to the boundaries of the road (spec Orion-Lite 3.3, as the teacher itself defines it).

Dimension letters: B batch, T step, L lane, P point of a lane.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from student.orion_lite.losses import Loss
from student.orion_lite.planner import waypoints

if TYPE_CHECKING:
    from student.loading.batches import Batch
    from student.orion_lite.model import Prediction

FAR_AWAY_M = 1e6
"""Where lanes are moved that are no boundary: no step is near them, and their segments have no length."""


class Boundary(Loss):
    """How far, in metres, each step is within a limit of the nearest boundary point.

    From the step that crosses its nearest boundary on, the penalty is 0: there the ground truth has to guide
    the plan, not the lane.
    """

    required_features: ClassVar[tuple[str, ...]] = (
        "lane_points",
        "lane_logits",
        "ego_trajectory_mask",
        "command",
    )

    weight: float = 3.0
    limit_m: float = 1.0
    """A step nearer than this costs the difference."""
    lane_class: int = 2
    """The lane class that is a boundary: double solid lines."""
    lane_logit: float = 0.5
    """A lane is of that class from this raw logit on."""

    def elements(self, predicted: Prediction, batch: Batch) -> Tensor:
        """See ``Loss``; (B, T)."""
        positions = waypoints(predicted.offsets, batch["command"])  # (B, T, 2)
        is_boundary = batch["lane_logits"][..., self.lane_class] >= self.lane_logit  # (B, L)
        lanes = batch["lane_points"].masked_fill(~is_boundary[:, :, None, None], FAR_AWAY_M)  # (B, L, P, 2)
        point, lane = nearest(positions.detach(), lanes)
        distance = torch.linalg.vector_norm(positions - point, dim=-1)  # (B, T)
        crossed = crosses(positions.detach(), lane).cumsum(dim=1) > 0
        penalty = (self.limit_m - distance).relu().masked_fill(crossed, 0.0)
        return self.weight * penalty * batch["ego_trajectory_mask"]


def nearest(positions: Tensor, lanes: Tensor) -> tuple[Tensor, Tensor]:
    """Find the lane point nearest to each position.

    Positions are (B, T, 2), lanes (B, L, P, 2). Returns the points (B, T, 2), and all points (B, T, P, 2) of
    the lanes that they belong to.
    """
    points = lanes.flatten(1, 2)  # (B, L P, 2)
    distance = torch.linalg.vector_norm(positions[:, :, None] - points[:, None], dim=-1)  # (B, T, L P)
    index = distance.argmin(dim=-1)  # (B, T)
    batch = torch.arange(len(lanes), device=lanes.device)[:, None]
    return points[batch, index], lanes[batch, index // lanes.shape[2]]


def crosses(positions: Tensor, lane: Tensor) -> Tensor:
    """Return which steps cross a lane, (B, T) bool; end points count, parallel segments never cross.

    Positions are (B, T, 2), of which the first step starts at the origin; there is one lane for each step,
    (B, T, P, 2).
    """
    start = torch.cat([torch.zeros_like(positions[:, :1]), positions[:, :-1]], dim=1)
    step = (positions - start)[:, :, None]  # (B, T, 1, 2)
    begin, piece = lane[:, :, :-1], lane.diff(dim=2)  # (B, T, P - 1, 2)
    gap = begin - start[:, :, None]
    determinant = _cross(step, piece)  # (B, T, P - 1)
    along_step = _cross(gap, piece) / determinant
    along_piece = _cross(gap, step) / determinant
    inside = (along_step >= 0) & (along_step <= 1) & (along_piece >= 0) & (along_piece <= 1)
    # With a determinant of 0 both are infinite or undefined, and so outside.
    return inside.any(dim=-1)


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]

"""Distance to other agents (spec Orion-Lite 3.4, as the teacher itself defines it).

Dimension letters: B batch, T step, A agent.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch

from student.orion_lite.losses import Loss
from student.orion_lite.planner import waypoints

if TYPE_CHECKING:
    from torch import Tensor

    from student.loading.batches import Batch
    from student.orion_lite.model import Prediction


class Collision(Loss):
    """How far, in metres and for each axis alone, each step is within a limit of the nearest agent.

    Agents are those that the teacher detected, each on its most likely future.
    """

    required_features: ClassVar[tuple[str, ...]] = (
        "agent_xy",
        "agent_class_scores",
        "agent_offsets",
        "ego_trajectory_mask",
        "command",
    )

    side_limit_m: float = 1.5
    """A step nearer than this in x (to the side) costs the difference."""
    ahead_limit_m: float = 3.0
    """A step nearer than this in y (ahead or behind) costs the difference."""
    range_m: float = 3.0
    """Agents farther than this from a step do not count for it."""
    score: float = 0.5
    """An agent counts from this class score on."""
    classes: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Its best class must be one of these; as released car, van, truck, bicycle and traffic sign: the first
    five, as in nuScenes. In Bench2Drive's order that includes traffic signs and excludes pedestrians (7)."""

    def elements(self, predicted: Prediction, batch: Batch) -> Tensor:
        """See ``Loss``; (B, T, 2), for x and y."""
        positions = waypoints(predicted.offsets, batch["command"])[:, :, None]  # (B, T, 1, 2)
        agents = batch["agent_xy"][:, :, None] + batch["agent_offsets"].cumsum(dim=2)  # (B, A, T, 2)
        difference = positions - agents.transpose(1, 2)  # (B, T, A, 2)
        best_score, best_class = batch["agent_class_scores"].max(dim=-1)  # (B, A)
        of_these_classes = torch.stack([best_class == kind for kind in self.classes]).any(dim=0)
        counts = (best_score >= self.score) & of_these_classes
        near = torch.linalg.vector_norm(difference.detach(), dim=-1) <= self.range_m  # (B, T, A)
        considered = (near & counts[:, None])[..., None]
        distance = difference.abs().masked_fill(~considered, math.inf).amin(dim=2)  # (B, T, 2)
        side, ahead = distance.unbind(dim=-1)
        penalty = torch.stack([self.side_limit_m - side, self.ahead_limit_m - ahead], dim=-1).relu()
        return self.weight * penalty * batch["ego_trajectory_mask"][..., None]

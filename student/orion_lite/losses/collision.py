"""Keep off other agents (spec Orion-Lite 3.4, the teacher's own semantics).

Dimension letters: B batch, T step, A agent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from student.orion_lite.planner import waypoints

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from student.orion_lite.model import Prediction


@dataclass(frozen=True, kw_only=True)
class Collision:
    """How far, in metres and for each axis alone, each step comes within a limit of the nearest agent.

    Agents are the teacher's, each on its most likely future.
    """

    needs: ClassVar[tuple[str, ...]] = (
        "agent_xy",
        "agent_class_scores",
        "agent_offsets",
        "ego_trajectory_mask",
        "command",
    )

    weight: float = 1.0
    """Factor of the term."""
    side_limit_m: float = 1.5
    """A step nearer than this in x (to the side) is charged for the rest."""
    ahead_limit_m: float = 3.0
    """A step nearer than this in y (ahead or behind) is charged for the rest."""
    range_m: float = 3.0
    """Agents farther than this from a step do not count for it."""
    score: float = 0.5
    """An agent counts from this class score on."""
    classes: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Its best class must be one of these; as released car, van, truck, bicycle and traffic sign. That is a
    habit of nuScenes: in Bench2Drive's order its limit lets traffic signs in and pedestrians (7) out."""

    def elements(self, predicted: Prediction, batch: Mapping[str, Tensor]) -> Tensor:
        """Return what the term is the mean of: (B, T, 2) for x and y, weight and mask included."""
        positions = waypoints(predicted.offsets, batch["command"])[:, :, None]  # (B, T, 1, 2)
        agents = batch["agent_xy"][:, :, None] + batch["agent_offsets"].cumsum(dim=2)  # (B, A, T, 2)
        apart = positions - agents.transpose(1, 2)  # (B, T, A, 2)
        best_score, best_class = batch["agent_class_scores"].max(dim=-1)  # (B, A)
        of_a_kind = torch.stack([best_class == kind for kind in self.classes]).any(dim=0)
        counts = (best_score >= self.score) & of_a_kind
        near = torch.linalg.vector_norm(apart.detach(), dim=-1) <= self.range_m  # (B, T, A)
        considered = (near & counts[:, None])[..., None]
        room = apart.abs().masked_fill(~considered, math.inf).amin(dim=2)  # (B, T, 2)
        side, ahead = room.unbind(dim=-1)
        charge = torch.stack([self.side_limit_m - side, self.ahead_limit_m - ahead], dim=-1).relu()
        return self.weight * charge * batch["ego_trajectory_mask"][..., None]

    def __call__(self, predicted: Prediction, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the scalar term."""
        return self.elements(predicted, batch).mean()

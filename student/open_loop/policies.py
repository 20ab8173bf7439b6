"""Who drives in an open-loop evaluation: each plans from what was known at a frame, and from nothing else.

Dimension letters: N frame, B batch, T step (of 0.5 s), D token width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from cache_schema.vocabulary.driving import TRAJECTORY_STEPS
from student.orion_lite.planner import waypoints

if TYPE_CHECKING:
    from student.loading.batches import Batch, LatentFrames
    from student.orion_lite.model import OrionLite
    from student.orion_lite.planner import Planner

KNOWN = ("scene_queries", "ego_token", "planning_token", "command")
"""Features that drivers plan from; none tells of the future."""
MOTION = "can_bus"
"""The feature that constant velocity goes by; imported datasets may lack it."""
SPEED = 7
"""Index of the forward speed, m/s, in ``can_bus``."""
BATCH = 64


class Plans(NamedTuple):
    """What every driver planned at N frames."""

    drives: dict[str, np.ndarray]
    """Driver -> (N, T, 2) positions in metres, LiDAR frame."""
    token: np.ndarray
    """(N, 3) of the student's planning token: cosine, relative and absolute difference to the teacher's."""


@torch.no_grad()
def plan(frames: LatentFrames, student: OrionLite, teacher: Planner) -> Plans:
    """Have every driver plan at every frame, from ``KNOWN`` features alone."""
    drives: dict[str, list[torch.Tensor]] = {}
    token: list[torch.Tensor] = []
    for _, batch in frames.batches(np.arange(len(frames)), BATCH):
        said = student(batch["scene_queries"], batch["ego_token"])
        token.append(_likeness(said.planning_token, batch["planning_token"]).cpu())
        planned = {
            "student": waypoints(said.offsets, batch["command"]),
            "teacher": waypoints(teacher.plan(batch["planning_token"]).offsets, batch["command"]),
            **_trivial(batch),
        }
        for driver, positions in planned.items():
            drives.setdefault(driver, []).append(positions.cpu())
    return Plans(
        {driver: torch.cat(pieces).numpy() for driver, pieces in drives.items()}, torch.cat(token).numpy()
    )


def _likeness(mine: torch.Tensor, teachers: torch.Tensor) -> torch.Tensor:
    """Cosine, relative and absolute difference of tokens (B, D), as (B, 3)."""
    apart = mine - teachers
    return torch.stack(
        [
            torch.cosine_similarity(mine, teachers, dim=1),
            apart.norm(dim=1) / teachers.norm(dim=1).clamp_min(1e-12),
            apart.abs().mean(dim=1),
        ],
        dim=1,
    )


def _trivial(batch: Batch) -> dict[str, torch.Tensor]:
    """Plans (B, T, 2) of drivers that look at nothing."""
    command = batch["command"]
    still = torch.zeros(len(command), TRAJECTORY_STEPS, 2, device=command.device)
    if MOTION not in batch:
        return {"stand_still": still}
    elapsed_s = 0.5 * torch.arange(1, TRAJECTORY_STEPS + 1, device=command.device)
    ahead = batch[MOTION][:, SPEED, None] * elapsed_s  # (B, T)
    straight = torch.stack([torch.zeros_like(ahead), ahead], dim=-1)
    return {"constant_velocity": straight, "stand_still": still}

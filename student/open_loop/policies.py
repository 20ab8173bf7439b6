"""Policies: each plans from what was known at a frame, and from nothing else.

Dimension letters: N frame, B frame of a batch, T step (of 0.5 s), D width of a feature.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from cache_schema.progress import SILENT, Progress
from cache_schema.vocabulary.driving import CAN_BUS, SPEED, TRAJECTORY_STEPS
from student.policy import PolicyOutput

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from student.loading.batches import Batch, LatentSamples
    from student.policy import Policy

BATCH = 64


class Plans(NamedTuple):
    """What all policies returned for N frames."""

    positions: dict[str, np.ndarray]
    """Policy -> (N, T, 2) planned positions in metres, LiDAR frame."""
    similarity: dict[str, np.ndarray]
    """Imitated feature -> (N, 3): cosine, relative and absolute difference to the teacher's."""


@torch.no_grad()
def plan(samples: LatentSamples, policies: Mapping[str, Policy], progress: Progress = SILENT) -> Plans:
    """Let every policy plan at every frame; none of the features of ``samples`` may depend on the future."""
    positions: dict[str, list[Tensor]] = {name: [] for name in policies}
    similarity: dict[str, list[Tensor]] = {}
    progress.expect(len(samples))
    for rows, batch in samples.batches(np.arange(len(samples)), BATCH):
        for name, policy in policies.items():
            output = policy(batch)
            positions[name].append(output.positions)
            for feature, (own, teachers) in output.imitated.items():
                similarity.setdefault(feature, []).append(_similarity(own, teachers))
        progress.advance(len(rows))
    return Plans(
        {name: torch.cat(pieces).cpu().numpy() for name, pieces in positions.items()},
        {name: torch.cat(pieces).cpu().numpy() for name, pieces in similarity.items()},
    )


def stand_still(batch: Batch) -> PolicyOutput:
    """Plan to stay in place."""
    command = batch["command"]
    return PolicyOutput(torch.zeros(len(command), TRAJECTORY_STEPS, 2, device=command.device))


def constant_velocity(batch: Batch) -> PolicyOutput:
    """Plan to go straight on at the present speed."""
    speed = batch[CAN_BUS][:, SPEED, None]  # (B, 1)
    elapsed_s = 0.5 * torch.arange(1, TRAJECTORY_STEPS + 1, device=speed.device)
    ahead = speed * elapsed_s  # (B, T)
    return PolicyOutput(torch.stack([torch.zeros_like(ahead), ahead], dim=-1))


def _similarity(own: Tensor, teachers: Tensor) -> Tensor:
    """Return cosine, relative and absolute difference of features (B, D), as (B, 3)."""
    difference = own - teachers
    return torch.stack(
        [
            torch.cosine_similarity(own, teachers, dim=1),
            difference.norm(dim=1) / teachers.norm(dim=1).clamp_min(1e-12),
            difference.abs().mean(dim=1),
        ],
        dim=1,
    )

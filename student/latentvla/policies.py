"""How LatentVLA-R drives: by what is known at a frame.

Dimension letters: B frame of a batch, T step (of 0.5 s), L embedding, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from student.latentvla.ego_frame import to_lidar
from student.latentvla.model import DRIVING, STATES
from student.policy import DrivingPolicy, PolicyOutput

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from student.latentvla.model import LatentVla
    from student.loading.batches import Batch


def driving_policy(
    student: LatentVla, states: Callable[[Batch], tuple[Tensor, Tensor] | None]
) -> DrivingPolicy:
    """Return how a student drives. It has one plan, whatever the command.

    Args:
        student: It tells codes behind its own. Only one without a decision transformer reads the teacher's
            states.
        states: Returns what its pools read.
    """

    def plan(batch: Batch) -> PolicyOutput:
        predicted = student(*(batch[name] for name in DRIVING), states=states(batch))
        imitated = {}
        if predicted.embeddings is not None and predicted.teacher is not None:
            told, pooled = (
                torch.cat(pair, dim=1).flatten(1) for pair in (predicted.embeddings, predicted.teacher)
            )
            imitated = {"embeddings": (told, pooled)}
        return PolicyOutput(to_lidar(predicted.plan.trajectory[..., :2]), imitated)

    read = STATES if student.pools is not None and student.decision is None else ()
    return DrivingPolicy((*DRIVING, *read), plan)

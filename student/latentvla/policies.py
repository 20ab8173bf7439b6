"""The driving policy that an evaluation measures: the student, by what is known at a frame.

Dimension letters: B frame of a batch, T step (of 0.5 s), L embedding, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from student.latentvla.ego_frame import to_lidar
from student.latentvla.model import DRIVING
from student.open_loop.policies import PolicyOutput

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from student.latentvla.model import LatentVla
    from student.loading.batches import Batch
    from student.open_loop.policies import Policy


def policies(
    student: LatentVla, states: Callable[[Batch], tuple[Tensor, Tensor] | None]
) -> dict[str, Policy]:
    """Return the student as a function of a batch. It has one plan, whatever the command.

    Args:
        student: It tells codes behind its own.
        states: Returns what its pools read.
    """

    def by_student(batch: Batch) -> PolicyOutput:
        predicted = student(*(batch[name] for name in DRIVING), states=states(batch))
        imitated = {}
        if predicted.embeddings is not None and predicted.teacher is not None:
            told, pooled = (
                torch.cat(pair, dim=1).flatten(1) for pair in (predicted.embeddings, predicted.teacher)
            )
            imitated = {"embeddings": (told, pooled)}
        return PolicyOutput(to_lidar(predicted.plan.trajectory[..., :2]), imitated)

    return {"student": by_student}

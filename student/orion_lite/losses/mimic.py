"""Imitate the teacher: distance between planning tokens (spec Orion-Lite 3.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch.nn.functional as F

from student.orion_lite.losses import Loss

if TYPE_CHECKING:
    from torch import Tensor

    from student.loading.batches import Batch
    from student.orion_lite.model import Prediction

Distance = Literal["l1", "mse", "huber", "kl"]


class Mimic(Loss):
    """Distance between the student's planning token and the teacher's, both (B, D), not normalised."""

    required_features: ClassVar[tuple[str, ...]] = ("planning_token",)

    distance: Distance = "l1"
    """Mean absolute (l1), squared (mse) or Huber (huber, delta 1) difference of the elements, or the
    divergence of the student's softmax from the teacher's (kl, mean over the batch)."""

    def __call__(self, predicted: Prediction, batch: Batch) -> Tensor:
        """See ``Loss``."""
        student, teacher = predicted.planning_token, batch["planning_token"]
        match self.distance:
            case "l1":
                term = F.l1_loss(student, teacher)
            case "mse":
                term = F.mse_loss(student, teacher)
            case "huber":
                term = F.huber_loss(student, teacher)
            case "kl":
                term = F.kl_div(
                    student.log_softmax(-1), teacher.log_softmax(-1), reduction="batchmean", log_target=True
                )
        return self.weight * term

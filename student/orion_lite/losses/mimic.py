"""Say what the teacher says: distance between planning tokens (spec Orion-Lite 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import torch.nn.functional as F

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from student.orion_lite.model import Prediction

Distance = Literal["l1", "mse", "huber", "kl"]


@dataclass(frozen=True, kw_only=True)
class Mimic:
    """Distance between the student's planning token and the teacher's, both (B, D), not normalised."""

    needs: ClassVar[tuple[str, ...]] = ("planning_token",)

    weight: float = 1.0
    """Factor of the term."""
    distance: Distance = "l1"
    """Mean absolute (l1), squared (mse) or Huber (huber, delta 1) difference of the elements, or the
    divergence of the student's softmax from the teacher's (kl, mean over the batch)."""

    def __post_init__(self) -> None:
        if self.distance not in get_args(Distance):
            raise ValueError(f"distance is one of {', '.join(get_args(Distance))}, not {self.distance!r}")

    def __call__(self, predicted: Prediction, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the scalar term."""
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

"""Distance to the expert's trajectory (spec LatentVLA 4).

Dimension letters: B batch, T step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from student.latentvla.ego_frame import driven
from student.latentvla.prediction import Loss, Prediction

if TYPE_CHECKING:
    from torch import Tensor

    from student.loading.batches import Batch


class Trajectory(Loss):
    """Absolute error of x and y, in metres, and heading, in radians.

    The mean divides by all of them, so that what is not known counts as 0.
    """

    required_features: ClassVar[tuple[str, ...]] = ("ego_trajectory", "ego_trajectory_mask")

    weight: float = 10.0

    def __call__(self, predicted: Prediction, batch: Batch) -> Tensor:
        """See ``Loss``."""
        poses, known = driven(batch["ego_trajectory"], batch["ego_trajectory_mask"])  # (B, T, 3)
        error = (predicted.plan.trajectory - poses).abs()
        return self.weight * (error * known).mean()

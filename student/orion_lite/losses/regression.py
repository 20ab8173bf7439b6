"""Distance to the expert's trajectory (spec Orion-Lite 3.2).

Dimension letters: B batch, M mode, T step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from student.orion_lite.losses import Loss

if TYPE_CHECKING:
    from torch import Tensor

    from student.loading.batches import Batch
    from student.orion_lite.model import Prediction


class Regression(Loss):
    """Absolute error, in metres, of the commanded mode's per-step offsets.

    The mean divides by every mode and step, so that one of six modes counts a sixth and a masked step counts
    as 0.
    """

    required_features: ClassVar[tuple[str, ...]] = ("ego_trajectory", "ego_trajectory_mask", "command")

    weight: float = 3.0

    def elements(self, predicted: Prediction, batch: Batch) -> Tensor:
        """See ``Loss``; (B, M, T, 2)."""
        offsets = predicted.offsets  # (B, M, T, 2)
        error = (offsets - batch["ego_trajectory"][:, None]).abs()
        modes = torch.arange(offsets.shape[1], device=offsets.device)
        commanded = (batch["command"][:, None] == modes)[:, :, None, None]  # (B, M, 1, 1)
        valid = batch["ego_trajectory_mask"][:, None, :, None]  # (B, 1, T, 1)
        return self.weight * error * commanded * valid

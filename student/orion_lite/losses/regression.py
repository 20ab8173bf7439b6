"""Drive where the expert drove (spec Orion-Lite 3.2).

Dimension letters: B batch, M mode, T step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from student.orion_lite.model import Prediction


@dataclass(frozen=True, kw_only=True)
class Regression:
    """Absolute error, in metres, of the commanded mode's per-step offsets.

    The mean divides by every mode and step, so that one of six modes counts a sixth and a masked step counts
    as 0.
    """

    needs: ClassVar[tuple[str, ...]] = ("ego_trajectory", "ego_trajectory_mask", "command")

    weight: float = 3.0
    """Factor of the term."""

    def elements(self, predicted: Prediction, batch: Mapping[str, Tensor]) -> Tensor:
        """Return what the term is the mean of: (B, M, T, 2), weight and mask included."""
        offsets = predicted.offsets  # (B, M, T, 2)
        error = (offsets - batch["ego_trajectory"][:, None]).abs()
        modes = torch.arange(offsets.shape[1], device=offsets.device)
        commanded = (batch["command"][:, None] == modes)[:, :, None, None]  # (B, M, 1, 1)
        valid = batch["ego_trajectory_mask"][:, None, :, None]  # (B, 1, T, 1)
        return self.weight * error * commanded * valid

    def __call__(self, predicted: Prediction, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the scalar term."""
        return self.elements(predicted, batch).mean()

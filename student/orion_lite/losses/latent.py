"""Let the planner's latent foresee the future (spec Orion-Lite 3.5).

Dimension letters: B batch, Z latent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from student.orion_lite.model import Prediction


@dataclass(frozen=True, kw_only=True)
class Latent:
    """Divergence KL(future || present) of the planner's two Gaussians, in nats; 0 without truth."""

    needs: ClassVar[tuple[str, ...]] = ("ego_trajectory", "ego_trajectory_mask")

    weight: float = 3.0
    """Factor of the term."""
    free_nats: float = 0.0
    """A dimension costs at least this, so that less is not worth pursuing. In the released run the divergence
    falls to 1e-7 after an epoch: the latent says nothing of the future any more."""

    def elements(self, predicted: Prediction, batch: Mapping[str, Tensor]) -> Tensor:
        """Return what the term is the mean of: (B), weight included."""
        present, future = predicted.present, predicted.future
        if future is None:
            raise ValueError("the latent objective needs a prediction that was given the true trajectory")
        spread = (2 * future.log_sigma).exp() + (future.mu - present.mu).square()
        divergence = (
            present.log_sigma - future.log_sigma - 0.5 + spread / (2 * (2 * present.log_sigma).exp())
        )  # (B, 1, Z)
        if self.free_nats:
            divergence = divergence.clamp(min=self.free_nats)
        return self.weight * divergence.sum(dim=(1, 2)) * batch["ego_trajectory_mask"].any(dim=1)

    def __call__(self, predicted: Prediction, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the scalar term."""
        return self.elements(predicted, batch).mean()

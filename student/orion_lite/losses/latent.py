"""Divergence between the planner's latent distributions (spec Orion-Lite 3.5).

Dimension letters: B batch, Z latent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from student.orion_lite.losses import Loss

if TYPE_CHECKING:
    from torch import Tensor

    from student.loading.batches import Batch
    from student.orion_lite.model import Prediction


class Latent(Loss):
    """Divergence KL(future || present) of the planner's two Gaussians, in nats; 0 without ground truth."""

    required_features: ClassVar[tuple[str, ...]] = ("ego_trajectory", "ego_trajectory_mask")

    weight: float = 3.0
    free_nats: float = 0.0
    """A dimension costs at least this, so that it gains nothing by less. In the released run the divergence
    falls to 1e-7 after an epoch: the latent no longer carries information about the future."""

    def elements(self, predicted: Prediction, batch: Batch) -> Tensor:
        """See ``Loss``; (B)."""
        present, future = predicted.present, predicted.future
        if future is None:
            raise ValueError("the latent loss needs a prediction that was given the ground-truth trajectory")
        spread = (2 * future.log_sigma).exp() + (future.mu - present.mu).square()
        divergence = (
            present.log_sigma - future.log_sigma - 0.5 + spread / (2 * (2 * present.log_sigma).exp())
        )  # (B, 1, Z)
        if self.free_nats:
            divergence = divergence.clamp(min=self.free_nats)
        return self.weight * divergence.sum(dim=(1, 2)) * batch["ego_trajectory_mask"].any(dim=1)

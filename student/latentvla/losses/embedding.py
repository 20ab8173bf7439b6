"""Distance between embeddings, as the decision transformer tells them and as pooled (spec LatentVLA 5 D).

Dimension letters: B batch, L latent of a pool, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch.nn.functional as F

from cache_schema.vocabulary.latent_actions import ACT_HIDDEN, VIS_POOLED
from student.latentvla.prediction import Loss, Prediction

if TYPE_CHECKING:
    from torch import Tensor

    from student.loading.batches import Batch


class Embedding(Loss):
    """Smooth absolute difference of the student's embeddings (B, L, D) from the pooled ones, a mean of each.

    No gradient reaches the pools by it.
    """

    required_features: ClassVar[tuple[str, ...]] = (ACT_HIDDEN, VIS_POOLED)

    visual: float = 1.0
    """Factor of the visual embeddings."""
    action: float = 1.0
    """Factor of the action embeddings."""

    def __call__(self, predicted: Prediction, batch: Batch) -> Tensor:
        """See ``Loss``."""
        del batch
        if predicted.embeddings is None or predicted.teacher is None:
            raise ValueError("only a student with a decision transformer, beside pools, tells embeddings")
        pairs = zip((self.visual, self.action), predicted.embeddings, predicted.teacher, strict=True)
        terms = [factor * F.smooth_l1_loss(told, pooled) for factor, told, pooled in pairs]
        return self.weight * (terms[0] + terms[1])

"""Latent actions: the teacher's distribution of every code, or the codes themselves (spec LatentVLA 5 D).

Dimension letters: B batch, N position of a code, K value of a code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch.nn.functional as F
from pydantic import Field

from cache_schema.vocabulary.latent_actions import CODE_LABELS, CODE_LOGITS, CODES
from student.latentvla.prediction import Loss, Prediction

if TYPE_CHECKING:
    from torch import Tensor

    from student.loading.batches import Batch


class CodeKl(Loss):
    """Divergence KL(teacher || student) in nats, summed over the positions of a frame.

    Every position is given the codes that the teacher chose before it.
    """

    required_features: ClassVar[tuple[str, ...]] = (CODES, CODE_LOGITS)

    temperature: float = Field(1.0, gt=0)
    """Divides both logits. The term is multiplied by its square, so that the gradient keeps its size."""

    def __call__(self, predicted: Prediction, batch: Batch) -> Tensor:
        """See ``Loss``."""
        divergence = code_kl(batch[CODE_LOGITS], logits_of(predicted), self.temperature)  # (B, N)
        return self.weight * self.temperature**2 * divergence.sum(dim=1).mean()


class CodeLabels(Loss):
    """Negative log-likelihood, in nats, of the codes of what really followed, summed over a frame's.

    Positions without a label count as 0.
    """

    required_features: ClassVar[tuple[str, ...]] = (CODE_LABELS,)

    def __call__(self, predicted: Prediction, batch: Batch) -> Tensor:
        """See ``Loss``."""
        labels = batch[CODE_LABELS]  # (B, N)
        logits = logits_of(predicted).transpose(1, 2)  # (B, K, N)
        surprise = F.cross_entropy(logits, labels.clamp(min=0), reduction="none")  # (B, N)
        return self.weight * (surprise * (labels >= 0)).sum(dim=1).mean()


def code_kl(teacher: Tensor, student: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(teacher || student) in nats, (B, N), of logits (B, N, K)."""
    expected, told = ((logits / temperature).log_softmax(dim=-1) for logits in (teacher, student))
    return F.kl_div(told, expected, reduction="none", log_target=True).sum(dim=-1)


def logits_of(predicted: Prediction) -> Tensor:
    """Return the student's logits of codes, (B, N, K)."""
    if predicted.code_logits is None:
        raise ValueError("only a student with a decision transformer tells codes")
    return predicted.code_logits

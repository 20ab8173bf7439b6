"""What LatentVLA-R's network returns, and the base of what it is trained for.

Dimension letters: B batch, N position of a code, K value of a code, L latent of a pool, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from student.system import LossConfig

if TYPE_CHECKING:
    from torch import Tensor

    from student.latentvla.planner.latent_transfuser import Plan
    from student.loading.batches import Batch


class Embeddings(NamedTuple):
    """What the planner reads of a vision-language model."""

    visual: Tensor
    """(B, L, D) of its states at image tokens."""
    action: Tensor
    """(B, L, D) of its states from which it tells the codes."""


class Prediction(NamedTuple):
    """The network's outputs for B frames."""

    plan: Plan
    code_logits: Tensor | None = None
    """(B, N, K); None without a decision transformer."""
    embeddings: Embeddings | None = None
    """As the decision transformer told them; None without one."""
    teacher: Embeddings | None = None
    """As pooled from the model's own states, without gradient; None where these were not given."""


class Loss(LossConfig):
    """A term of LatentVLA-R's loss."""

    def __call__(self, predicted: Prediction, batch: Batch) -> Tensor:
        """Return the weighted term, (), for B samples."""
        raise NotImplementedError

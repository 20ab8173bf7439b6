"""The terms of a loss as one module, which is compiled as networks are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from student.loading.batches import Batch


class Term(Protocol):
    """A term of a loss."""

    def __call__(self, predicted: Any, batch: Batch) -> Tensor:
        """Return the weighted term, (), the mean over the samples of a batch."""
        ...


class Terms(nn.Module):
    """All terms of a loss, by name. It has no weights.

    They are small sums: on a GPU, launching them one by one takes longer than they run.
    """

    def __init__(self, terms: Mapping[str, Term]) -> None:
        super().__init__()
        self.terms = dict(terms)

    def forward(self, predicted: Any, batch: Batch) -> dict[str, Tensor]:
        """Return the terms () of a network's outputs for a batch; no warm-up."""
        return {name: term(predicted, batch) for name, term in self.terms.items()}

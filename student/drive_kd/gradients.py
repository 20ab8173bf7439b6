"""The gradients of several terms of a loss, and sums of them that differ from weight to weight.

A term does not reach every weight. Every gradient in play is, at each weight, a combination of those of the
terms; so what is projected is their coefficients, and the gradients themselves are read twice only: for
their products, and for the sum at the end.

Dimension letters: W weight, K term, P element of a weight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    Gradients = Sequence[Sequence[Tensor | None]]
    """Term -> weight -> gradient, None where the term does not reach the weight."""


def reaches(gradients: Gradients) -> Tensor:
    """Return which term reaches which weight, (W, K) bool on the host."""
    return torch.tensor([[gradient is not None for gradient in term] for term in gradients]).T


def products(gradients: Gradients, *, norms_only: bool = False) -> Tensor:
    """Return the inner products of terms at every weight, (W, K, K) float64; 0 where one does not reach it.

    Args:
        gradients: Of K terms by W weights.
        norms_only: Compute a term's products with itself alone.
    """
    device = next(g.device for term in gradients for g in term if g is not None)
    terms, zero = range(len(gradients)), torch.zeros((), device=device)
    found = []
    for at_weight in zip(*gradients, strict=True):
        flat = [None if gradient is None else gradient.flatten() for gradient in at_weight]
        rows = [[zero] * len(flat) for _ in terms]
        for i in terms:
            for j in range(i, i + 1 if norms_only else len(flat)):
                one, other = flat[i], flat[j]
                if one is not None and other is not None:
                    rows[i][j] = rows[j][i] = torch.dot(one, other)
        found += [value for row in rows for value in row]
    return torch.stack(found).view(-1, len(gradients), len(gradients)).double()


def add_combined(weights: Sequence[nn.Parameter], gradients: Gradients, coefficients: Tensor) -> None:
    """Add a combination of the terms' gradients to the gradient of every weight that one of them reaches.

    Args:
        weights: W of them.
        gradients: Of K terms.
        coefficients: (W, K) of each term at each weight.
    """
    rows = coefficients.float().unbind()
    for weight, row, at_weight in zip(weights, rows, zip(*gradients, strict=True), strict=True):
        for coefficient, gradient in zip(row.unbind(), at_weight, strict=True):
            if gradient is None:
                continue
            if weight.grad is None:
                weight.grad = gradient * coefficient
            else:
                weight.grad.addcmul_(gradient, coefficient)

"""Gradients that contradict each other, projected in two stages.

The gradient of the answer leads; other terms follow. Stage 1 takes out of each follower what contradicts the
leader, and adds the leader. Stage 2 takes out of each of these sums what contradicts another, as it was
after stage 1, one after the other in a random order. The result is the sum of all.

A term that does not reach a weight has no gradient there, and gets none by stage 1: what is taken out of a
follower is taken out where the follower itself reaches. The norm it is divided by is the leader's over all
weights, so that what is left is not orthogonal to it. Both as released; one flat vector with zeros in place
of what is missing gives something else.

Dimension letters: W weight, K term, the leader first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

SMALLEST_SQUARE = 1e-20
"""Of the norm that a projection divides by."""


def projected(
    products: Tensor,
    reaches: Tensor,
    factors: Tensor,
    order: Sequence[int],
    *,
    stage_1: bool = True,
    stage_2: bool = True,
    ce_once: bool = False,
) -> Tensor:
    """Return the combination of the terms' gradients that is left, (W, K) float64.

    Args:
        products: (W, K, K) float64 inner products of the terms' gradients at every weight.
        reaches: (W, K) bool, which term reaches which weight.
        factors: (K) float64 by which each gradient is multiplied first.
        order: Every follower once, by its number from 1: the order of stage 2.
        stage_1: Whether followers are projected away from the leader.
        stage_2: Whether sums are projected away from each other.
        ce_once: Whether the leader is shared out among the followers, instead of added to each.
    """
    terms = torch.diag_embed(reaches * factors)  # (W, K, K): the last but one axis counts terms

    def product(one: Tensor, other: Tensor) -> Tensor:
        return torch.einsum("wi,wij,wj->", one, products, other)

    def without(one: Tensor, other: Tensor, where: Tensor) -> Tensor:
        """Take out of a gradient what contradicts another, at some weights (W)."""
        length = product(one, other).clamp(max=0) / product(other, other).clamp(min=SMALLEST_SQUARE)
        return one - length * other * where[:, None]

    leader = terms[:, 0]
    if not order:
        return leader
    share = 1 / len(order) if ce_once else 1.0
    sums = {}
    for follower in order:
        own = terms[:, follower]
        sums[follower] = share * leader + (without(own, leader, reaches[:, follower]) if stage_1 else own)
    left = []
    for follower in order:
        whole, where = sums[follower], reaches[:, 0] | reaches[:, follower]
        for other in order:
            if stage_2 and other != follower:
                whole = without(whole, sums[other], where)
        left.append(whole)
    return torch.stack(left).sum(dim=0)

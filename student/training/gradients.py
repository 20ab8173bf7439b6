"""How the terms of a loss become one gradient. A system may bring a rule of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor, nn

    from student.step import StepContext


class SumOfLosses:
    """The gradient of the sum of all terms, in one backward pass; a ``GradientRule``."""

    separate = False

    def __call__(
        self,
        losses: Mapping[str, Tensor],
        weights: Sequence[nn.Parameter],
        scale: Callable[[Tensor], Tensor],
        context: StepContext,
    ) -> None:
        """See ``GradientRule``."""
        del weights, context
        scale(total(losses)).backward()

    def end_step(
        self, weights: Sequence[nn.Parameter], reduce: Callable[[Tensor], Tensor], context: StepContext
    ) -> None:
        """Do nothing: processes have exchanged the gradient in the backward pass."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return nothing: the rule has no state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """See ``GradientRule``."""


def total(losses: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of the terms of a loss, ()."""
    return torch.stack(list(losses.values())).sum()


def separate_gradients(
    losses: Mapping[str, Tensor], weights: Sequence[nn.Parameter], scale: Callable[[Tensor], Tensor]
) -> dict[str, list[Tensor | None]]:
    """Differentiate every term () by itself, for rules that combine gradients; ``scale`` is the rule's.

    Returns:
        Term -> its gradient by each weight, which lies in memory as the weight does: AdamW reads both in one
        order, and torch may give a convolution's in another. None for weights that a term does not reach.
    """
    found: dict[str, list[Tensor | None]] = {}
    for name, loss in losses.items():
        if not loss.requires_grad:
            found[name] = [None] * len(weights)
            continue
        gradients = torch.autograd.grad(scale(loss), weights, retain_graph=True, allow_unused=True)
        found[name] = [
            gradient
            if gradient is None or gradient.stride() == weight.stride()
            else torch.empty_like(weight).copy_(gradient)
            for gradient, weight in zip(gradients, weights, strict=True)
        ]
    return found


def average_gradients(weights: Sequence[nn.Parameter], reduce: Callable[[Tensor], Tensor]) -> None:
    """Average the gradients of all processes, for separate rules; ``reduce`` is that of ``end_step``.

    A process without a gradient for a weight counts as zeros; where no process has one, there stays none.
    """
    reached = reduce(torch.tensor([float(weight.grad is not None) for weight in weights]))
    for weight, portion in zip(weights, reached.tolist(), strict=True):
        if portion > 0:
            weight.grad = reduce(torch.zeros_like(weight) if weight.grad is None else weight.grad)

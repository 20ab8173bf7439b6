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
        Term -> its gradient by each weight; None for weights that it does not reach.
    """
    return {
        name: list(torch.autograd.grad(scale(loss), weights, retain_graph=True, allow_unused=True))
        if loss.requires_grad
        else [None] * len(weights)
        for name, loss in losses.items()
    }


def average_gradients(weights: Sequence[nn.Parameter], reduce: Callable[[Tensor], Tensor]) -> None:
    """Average the gradients of all processes, for separate rules; ``reduce`` is that of ``end_step``.

    A process without a gradient for a weight counts as zeros; where no process has one, there stays none.
    """
    reached = reduce(torch.tensor([float(weight.grad is not None) for weight in weights]))
    for weight, portion in zip(weights, reached.tolist(), strict=True):
        if portion > 0:
            weight.grad = reduce(torch.zeros_like(weight) if weight.grad is None else weight.grad)

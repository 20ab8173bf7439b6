"""A moving average of a network's weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from student.training.schedule import averaging_decay

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn


class MovingAverage:
    """The average that follows a network's weights, under their names.

    Args:
        model: The network, with the weights that the average starts from.
        decay: What the average keeps of itself at a step, late in a run.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the weights after a step, counted from 0."""
        part = 1 - averaging_decay(self.decay, step)
        # Asked for anew: whoever spreads a network over processes may move its weights.
        torch._foreach_lerp_(list(self.weights.values()), list(self.model.parameters()), part)

    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from an average that was saved."""
        for name, value in self.weights.items():
            value.copy_(weights[name])

"""AdamW, the schedule of its learning rate, and an exponential moving average of weights.

Schedules are functions of the step, counted from 0, so that a resumed run goes on as it would have.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from torch import Tensor, nn

    from student.runs.config import TrainingConfig


def adamw(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """Return the optimiser, with the weights that do not decay in a group of their own."""
    free = {id(weight) for weight in model.parameters() if config.decay == "matrices" and weight.dim() < 2}
    decaying = [weight for weight in model.parameters() if id(weight) not in free]
    others = [weight for weight in model.parameters() if id(weight) in free]
    groups = [{"params": decaying}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        # One pass over the memory of half a billion weights, instead of eight.
        fused=True,
    )


def learning_rate(config: TrainingConfig, step: int, steps: int) -> float:
    """Return the rate of one step of a run of so many ``steps``."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - config.warmup_steps) / max(steps - config.warmup_steps, 1)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def ema_decay(decay: float, step: int) -> float:
    """Return the decay of an average of weights at a step: smaller at first, when weights change most."""
    return min(decay, (1 + step) / (10 + step))


class MovingAverage:
    """The exponential moving average of a network's weights, under their names.

    ``decay`` is the share of itself that the average keeps at a step, late in a run. It goes on from a
    ``saved`` average, or starts from the network's weights.
    """

    def __init__(self, model: nn.Module, decay: float, saved: Mapping[str, Tensor] | None = None) -> None:
        self.model, self.decay = model, decay
        self.weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        for name, weight in (saved or {}).items():
            self.weights[name].copy_(weight)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the weights after a step, counted from 0."""
        part = 1 - ema_decay(self.decay, step)
        # Parameters are looked up anew: wrapping a network for several processes may move them.
        torch._foreach_lerp_(list(self.weights.values()), list(self.model.parameters()), part)

    @contextlib.contextmanager
    def in_place(self) -> Generator[None]:
        """Let the network compute with its averaged weights for a while."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, weight in self.model.named_parameters():
            weight.data, self.weights[name] = self.weights[name], weight.data

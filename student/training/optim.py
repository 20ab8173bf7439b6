"""AdamW, the schedule of its learning rate, clipping, and an exponential moving average of weights.

Schedules are functions of the step, counted from 0, so that a resumed run goes on as it would have.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping

    from accelerate import Accelerator
    from torch import nn

    from student.runs.config import TrainingConfig


def adamw(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """Return the optimiser, with the weights that do not decay in a group of their own.

    On a GPU its learning rate is a tensor there, so that a CUDA graph of a step would read it.
    """
    free = {id(weight) for weight in model.parameters() if config.decay == "matrices" and weight.dim() < 2}
    decaying = [weight for weight in model.parameters() if id(weight) not in free]
    others = [weight for weight in model.parameters() if id(weight) in free]
    groups = [{"params": decaying}, {"params": others, "weight_decay": 0.0}]
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        # One pass over the memory of half a billion weights, instead of eight.
        fused=True,
        capturable=device.type == "cuda",
    )
    if device.type == "cuda":
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(config.learning_rate, device=device)
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Let the next step be taken at a rate."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def clip(
    accelerator: Accelerator,
    optimizer: torch.optim.AdamW,
    weights: Iterable[nn.Parameter],
    limit: float | None,
) -> Tensor:
    """Clip the global norm of the gradient to a limit, if there is one; return the norm that it had, ().

    On a GPU the optimiser divides the gradient when it reads it, which saves a pass over half a billion
    numbers. A CPU multiplies as ever: runs keep their bits.
    """
    accelerator.unscale_gradients()
    reached = [weight for weight in weights if weight.grad is not None]
    norm = get_total_norm([weight.grad for weight in reached if weight.grad is not None])
    if limit is None:
        return norm
    if norm.device.type == "cuda":
        optimizer.grad_scale = clip_divisor(norm, limit)  # ty: ignore[missing-attribute]  # see AdamW.step
    else:
        clip_grads_with_norm_(reached, limit, norm)
    return norm


def clip_divisor(norm: Tensor, limit: float) -> Tensor:
    """Return what a gradient of this norm is divided by, so that its norm is the limit at most; 1 or more."""
    return (norm / limit).clamp(min=1.0)


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
    ``saved`` average, or starts from the network's weights. A step reads both and writes one: 12 bytes a
    weight, beside the 32 of AdamW that clips.
    """

    def __init__(self, model: nn.Module, decay: float, saved: Mapping[str, Tensor] | None = None) -> None:
        self.decay = decay
        self.weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        self._averages = list(self.weights.values())
        self._weights: list[Tensor] = list(model.parameters())
        if saved is not None:
            for name, weight in self.weights.items():
                weight.copy_(saved[name])

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the weights after a step, counted from 0."""
        torch._foreach_lerp_(self._averages, self._weights, 1 - ema_decay(self.decay, step))

    @contextlib.contextmanager
    def in_place(self) -> Generator[None]:
        """Let the network compute with its averaged weights for a while."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        # Values, not memory: cuDNN wants the weights of a recurrent layer to stay behind one another.
        for weight, average in zip(self._weights, self._averages, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)

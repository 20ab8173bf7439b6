"""AdamW over a student's weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import nn

    from student.runs.config import TrainConfig


def adamw(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Return the optimiser, with the weights that do not decay in a group of their own."""
    free = {id(weight) for weight in model.parameters() if config.decay == "matrices" and weight.dim() < 2}
    decaying = [weight for weight in model.parameters() if id(weight) not in free]
    others = [weight for weight in model.parameters() if id(weight) in free]
    groups = [{"params": decaying}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        # Once over the memory of half a billion weights, instead of eight times.
        fused=True,
    )

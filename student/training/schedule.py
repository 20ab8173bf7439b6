"""What changes over a run, as functions of the step, counted from 0."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from student.runs.config import TrainConfig


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """Rate of one step of a run of so many ``steps``."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    progress = (step - config.warmup_steps) / max(steps - config.warmup_steps, 1)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))


def term_factor(config: TrainConfig, term: str, step: int) -> float:
    """How much of its weight a term of the loss has at a step."""
    return min(1.0, (step + 1) / config.term_warmup_steps.get(term, 1))


def averaging_decay(decay: float, step: int) -> float:
    """Decay of the average of weights at a step: smaller at first, when early weights are worth little."""
    return min(decay, (1 + step) / (10 + step))

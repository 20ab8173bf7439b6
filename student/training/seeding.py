"""Chance without a state: what is drawn at a step follows from the seed and the step's number.

So a run that goes on from any step draws what an undisturbed one would have drawn, on any device.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_DROPOUT, _NOISE = range(2)


def seed_dropout(seed: int, step: int, process: int) -> None:
    """Decide what dropout draws in one step; each process drops out for its own frames."""
    torch.manual_seed(_mixed(seed, _DROPOUT, step, process))


def latent_noise(seed: int, step: int, frames: int, latent: int) -> Tensor:
    """Draw the planner's noise for all frames of a step, (frames, 1, latent), on the host.

    It is drawn for all processes, each of which takes its frames' part.
    """
    generator = torch.Generator().manual_seed(_mixed(seed, _NOISE, step))
    return torch.randn(frames, 1, latent, generator=generator)


def _mixed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))

"""One training step: what a system is given, and what it returns.

Random numbers have no state: what is drawn in a step follows from the seed and the step's number, so that a
resumed run draws what an uninterrupted one would have drawn, on any device.

Dimension letters: B sample of a batch: of a step, or of one of its micro-batches in one process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from student.device import sent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

_DROPOUT, _NOISE, _RULE = range(3)


class StepContext:
    """Where a training step stands in its run, and the random numbers it may draw.

    Args:
        seed: Of the run.
        step: Number of the step, from 0.
        samples: Samples of the step, over all processes.
        positions: (B) places of the batch's samples among them.
        device: Where drawn numbers go.
    """

    def __init__(
        self, seed: int, step: int, *, samples: int, positions: np.ndarray, device: torch.device
    ) -> None:
        self.seed, self.step, self.samples, self.device = seed, step, samples, device
        self.factors: dict[str, float] = {}
        """Term of the loss -> the factor that the system has multiplied it by, for rules that undo it; filled
        in, for each micro-batch, by systems whose rule reads it."""
        self.positions = torch.from_numpy(positions)
        self._noise = torch.Generator().manual_seed(_mixed(seed, _NOISE, step))

    def randn(self, *shape: int) -> Tensor:
        """Draw standard normal numbers for every sample, (B, *shape).

        They are drawn on the host for all samples of the step, of which those of the batch are taken, so that
        they depend neither on the number of processes nor on the size of micro-batches.
        """
        drawn = torch.randn(self.samples, *shape, generator=self._noise)
        return sent(drawn[self.positions], self.device)

    def rng(self, *more: int) -> np.random.Generator:
        """Return a generator for decisions that are the same in all processes, such as an order of terms.

        Args:
            more: What else they depend on, from 0, such as the place of a sample in its step.
        """
        return np.random.default_rng([self.seed, _RULE, self.step, *more])


class StepOutput(NamedTuple):
    """What a system returns of a step."""

    losses: Mapping[str, Tensor]
    """Term of the loss -> (), weighted: its mean over B samples. Their sum is what is minimised."""
    outputs: tuple[Tensor, ...]
    """(B, ...) outputs of the network; samples with a value that is not finite are named when a run stops."""


def seed_dropout(seed: int, step: int, process: int) -> None:
    """Seed what dropout draws in one step; each process draws for its own samples."""
    torch.manual_seed(_mixed(seed, _DROPOUT, step, process))


def _mixed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))

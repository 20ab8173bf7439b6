"""Which samples in which order: a seed decides every batch of every epoch.

Nothing here has state. The batches that are left of an epoch follow from how many were taken, so that a run
resumed at any step sees what an uninterrupted run would see, on any number of processes.

Dimension letters: N sample of a split.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Shuffle = Literal["frames", "runs"]
"""A permutation of all samples, or of runs of neighbouring samples that are then mixed with a few others."""

RUN_SAMPLES = 8
"""Neighbouring samples that stay together in ``runs``: a few MB, so that a disk's seek no longer counts."""
WINDOW_BATCHES = 16
"""Batches that are fetched, and mixed, together in ``runs``."""


class Sampler:
    """The batches of every epoch, as numbers of samples, which are numbered through, clip by clip.

    ``frames`` permutes all samples. ``runs`` is for disks and networks that are slow at single samples: it
    permutes runs of neighbouring samples of a clip, and then the samples of as many runs as fill a window.

    Args:
        lengths: Samples of each clip.
        batch_size: Samples of a batch, over all processes; the last batch of an epoch may be smaller.
        seed: Decides every order.
        shuffle: How to shuffle.
        run_samples: Length of a run.
        window_batches: Length of a window.
    """

    def __init__(
        self,
        lengths: ArrayLike,
        *,
        batch_size: int,
        seed: int,
        shuffle: Shuffle = "frames",
        run_samples: int = RUN_SAMPLES,
        window_batches: int = WINDOW_BATCHES,
    ) -> None:
        self.lengths, self.batch_size, self.seed = np.asarray(lengths), batch_size, seed
        self.shuffle, self.run_samples = shuffle, run_samples
        self.window_batches = window_batches if shuffle == "runs" else 1

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return -(-int(self.lengths.sum()) // self.batch_size)

    def order(self, epoch: int) -> np.ndarray:
        """Return the numbers of all samples in the order of one epoch, (N)."""
        rng = np.random.default_rng([self.seed, epoch])
        if self.shuffle == "frames":
            return rng.permutation(int(self.lengths.sum()))
        first = np.cumsum(self.lengths) - self.lengths
        runs = [
            run
            for begin, length in zip(first, self.lengths, strict=True)
            # Cut anew in every epoch, so that no two samples are always together.
            for run in np.split(
                np.arange(begin, begin + length),
                np.arange(rng.integers(1, self.run_samples + 1), length, self.run_samples),
            )
        ]
        order = np.concatenate([runs[number] for number in rng.permutation(len(runs))])
        window = self.window_batches * self.batch_size
        for begin in range(0, len(order), window):
            rng.shuffle(order[begin : begin + window])
        return order

    def windows(self, epoch: int, *, done: int = 0) -> list[list[np.ndarray]]:
        """Return the batches that are left of an epoch, after ``done``, in groups to be fetched together."""
        order = self.order(epoch)
        batches = [order[begin : begin + self.batch_size] for begin in range(0, len(order), self.batch_size)]
        wide = self.window_batches
        # Of a window that was begun, what is left is fetched again.
        firsts = range(done // wide * wide, len(batches), wide)
        windows = [batches[max(first, done) : first + wide] for first in firsts]
        return [window for window in windows if window]


def share(rows: np.ndarray, process: int, processes: int) -> np.ndarray:
    """Return one process's part of the samples of a batch: every sample belongs to exactly one process."""
    return rows[process::processes]

"""Which frames in which order: a seed decides every batch of every epoch, wherever a run stands.

Nothing here has a state. The batches that are left of an epoch follow from how many were taken, so that a run
that goes on from step n sees what an undisturbed one would see, on however many processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from student.runs.config import Shuffle

RUN_FRAMES = 8
"""Neighbouring frames that lie together in ``runs``: a few MB, so that a disk's seek no longer counts."""
WINDOW_BATCHES = 16
"""Batches that are fetched, and mixed, together in ``runs``."""


class Sampler:
    """The batches of every epoch, as numbers of frames.

    ``frames`` permutes all frames. ``runs`` is for disks and networks that are slow at single frames: it
    permutes runs of neighbouring frames of a clip, and then the frames of as many runs as make a window.

    Args:
        lengths: Frames of each clip; frames are numbered through, clip by clip.
        batch_size: Frames of a batch, over all processes; the last batch of an epoch may be smaller.
        seed: Decides every order.
        shuffle: How.
        run_frames: Length of a run.
        window_batches: Length of a window.
    """

    def __init__(
        self,
        lengths: ArrayLike,
        *,
        batch_size: int,
        seed: int,
        shuffle: Shuffle = "frames",
        run_frames: int = RUN_FRAMES,
        window_batches: int = WINDOW_BATCHES,
    ) -> None:
        self.lengths, self.batch_size, self.seed = np.asarray(lengths), batch_size, seed
        self.shuffle, self.run_frames = shuffle, run_frames
        self.window_batches = window_batches if shuffle == "runs" else 1

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return -(-int(self.lengths.sum()) // self.batch_size)

    def order(self, epoch: int) -> np.ndarray:
        """Numbers of all frames in the order of one epoch, (N)."""
        rng = np.random.default_rng([self.seed, epoch])
        if self.shuffle == "frames":
            return rng.permutation(int(self.lengths.sum()))
        first = np.cumsum(self.lengths) - self.lengths
        runs = [
            run
            for begin, length in zip(first, self.lengths, strict=True)
            # Cut anew in every epoch, so that no two frames always meet.
            for run in np.split(
                np.arange(begin, begin + length),
                np.arange(rng.integers(1, self.run_frames + 1), length, self.run_frames),
            )
        ]
        order = np.concatenate([runs[number] for number in rng.permutation(len(runs))])
        window = self.window_batches * self.batch_size
        for begin in range(0, len(order), window):
            rng.shuffle(order[begin : begin + window])
        return order

    def windows(self, epoch: int, *, done: int = 0) -> list[list[np.ndarray]]:
        """Return the batches that are left of an epoch, in groups that are best fetched together.

        Args:
            epoch: Which epoch.
            done: Batches of it that have been taken.
        """
        order = self.order(epoch)
        batches = [order[begin : begin + self.batch_size] for begin in range(0, len(order), self.batch_size)]
        wide = self.window_batches
        # A window that was begun is fetched again for what is left of it.
        firsts = range(done // wide * wide, len(batches), wide)
        windows = [batches[max(first, done) : first + wide] for first in firsts]
        return [window for window in windows if window]


def share(rows: np.ndarray, process: int, processes: int) -> np.ndarray:
    """Return the frames of a batch that one process looks at: all processes together look at each once."""
    return rows[process::processes]

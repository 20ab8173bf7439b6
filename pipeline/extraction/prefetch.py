"""The samples of one clip, prepared ahead of the teacher."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from pipeline.extraction.own_memory import own

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future, ThreadPoolExecutor

    from pipeline.source import OpenClip

SAMPLES_AHEAD = 4
"""Samples a slot that are prepared ahead: enough to bridge a slow file, little beside a clip's memory."""


class Prefetcher:
    """Prepares the samples of a clip, in order, in threads.

    Args:
        clip: The clip.
        samples: Number of its samples.
        prepare: Turns a sample into a teacher's inputs.
        pool: Threads that do it.
    """

    def __init__(
        self, clip: OpenClip, samples: int, prepare: Callable[[Any], Any], pool: ThreadPoolExecutor
    ) -> None:
        self._submit: Callable[[int], Future[Any]] = lambda index: pool.submit(
            # It waits for its turn, while the next samples are prepared.
            lambda: own(prepare(clip.sample(index)))
        )
        self._samples = samples
        self._submitted = min(SAMPLES_AHEAD, samples)
        self._ahead = deque(self._submit(index) for index in range(self._submitted))

    @property
    def exhausted(self) -> bool:
        """Whether the inputs of the last sample have been taken."""
        return not self._ahead

    def next(self) -> Any:
        """Return the inputs of the next sample, once they are ready.

        Raises:
            ClipError: A file of this sample is missing or broken.
        """
        inputs = self._ahead.popleft().result()
        if self._submitted < self._samples:
            self._ahead.append(self._submit(self._submitted))
            self._submitted += 1
        return inputs

    def cancel(self) -> None:
        """Prepare no more samples."""
        for future in self._ahead:
            future.cancel()

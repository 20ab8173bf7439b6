"""The samples of one clip, prepared ahead of the teacher."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from pipeline.extraction.own_memory import own
from pipeline.teachers.protocol import has_fresh_inputs

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future, ThreadPoolExecutor

    from pipeline.source import OpenClip
    from pipeline.teachers.protocol import Teacher

SAMPLES_AHEAD = 4
"""Samples a slot that are prepared ahead: enough to bridge a slow file, little beside a clip's memory."""


class Prefetcher:
    """Prepares the samples of a clip, in order, in threads.

    Args:
        clip: The clip.
        samples: Number of its samples.
        teacher: Turns a sample into inputs.
        pool: Threads that do it.
    """

    def __init__(self, clip: OpenClip, samples: int, teacher: Teacher, pool: ThreadPoolExecutor) -> None:
        def prepared(index: int) -> Any:
            inputs = teacher.prepare(clip.sample(index))
            # They wait for their turn, while the next samples are prepared.
            return inputs if has_fresh_inputs(teacher) else own(inputs)

        self._submit: Callable[[int], Future[Any]] = lambda index: pool.submit(prepared, index)
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

"""The samples of one clip, prepared ahead of the teacher."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.extraction.own_memory import own
from pipeline.teachers.protocol import has_fresh_inputs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future, ThreadPoolExecutor

    import numpy as np

    from pipeline.source import OpenClip
    from pipeline.teachers.protocol import Teacher

SAMPLES_AHEAD = 4
"""Samples a slot that are prepared ahead: enough to bridge a slow file, little beside a clip's memory."""


class Prepared(NamedTuple):
    """One sample."""

    inputs: Any
    """What the teacher made of it."""
    values: Mapping[str, np.ndarray]
    """Features that the source has of it: arrays of their ``shape``."""


class Prefetcher:
    """Prepares the samples of a clip, in order, in threads.

    Args:
        clip: The clip.
        samples: Number of its samples.
        teacher: Turns a sample into inputs.
        pool: Threads that do it.
    """

    def __init__(self, clip: OpenClip, samples: int, teacher: Teacher, pool: ThreadPoolExecutor) -> None:
        inputs_of = getattr(clip, "inputs", lambda _: {})

        def prepared(index: int) -> Prepared:
            sample = clip.sample(index)
            inputs = teacher.prepare(sample)
            # They wait for their turn, while the next samples are prepared.
            inputs = inputs if has_fresh_inputs(teacher) else own(inputs)
            return Prepared(inputs, own(dict(inputs_of(sample))))

        self._submit: Callable[[int], Future[Prepared]] = lambda index: pool.submit(prepared, index)
        self._samples = samples
        self._submitted = min(SAMPLES_AHEAD, samples)
        self._ahead = deque(self._submit(index) for index in range(self._submitted))

    @property
    def exhausted(self) -> bool:
        """Whether the inputs of the last sample have been taken."""
        return not self._ahead

    def next(self) -> Prepared:
        """Return the next sample, once it is ready.

        Raises:
            ClipError: A file of this sample is missing or broken.
        """
        prepared = self._ahead.popleft().result()
        if self._submitted < self._samples:
            self._ahead.append(self._submit(self._submitted))
            self._submitted += 1
        return prepared

    def cancel(self) -> None:
        """Prepare no more samples."""
        for future in self._ahead:
            future.cancel()

"""Means over frames, with confidence intervals by the percentile bootstrap over whole clips.

Frames of one clip are not independent. The seed is fixed.

Dimension letters: N frame, S sum over frames, M measure, C clip, R resample.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from collections.abc import Callable

RESAMPLES = 1000
SEED = 0
CONFIDENCE = 0.95

Interval = tuple[float, float]


class Estimate(BaseModel):
    """A mean over frames, or what else follows from sums over them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    interval: Interval | None
    """None where all frames are of one clip, which has no spread."""


def means(values: np.ndarray, counted: np.ndarray, clip_of: np.ndarray) -> list[Estimate]:
    """Average M measures (N, M) over the frames that count (N), at least one, with intervals over clips."""
    ones = np.ones((len(values), 1))
    return of_sums(np.hstack([values, ones]), counted, clip_of, lambda sums: sums[..., :-1] / sums[..., -1:])


def of_sums(
    values: np.ndarray,
    counted: np.ndarray,
    clip_of: np.ndarray,
    measure: Callable[[np.ndarray], np.ndarray],
) -> list[Estimate]:
    """Estimate measures of a whole that are no means of frames, such as BLEU, with intervals over clips.

    Args:
        values: (N, S) what is summed over the frames that count.
        counted: (N) which do, at least one.
        clip_of: (N) the clip of each.
        measure: From such sums (..., S) to measures (..., M).
    """
    _, clip = np.unique(clip_of[counted], return_inverse=True)
    clips = int(clip.max()) + 1
    sums = np.zeros((clips, values.shape[1]))  # (C, S)
    np.add.at(sums, clip, values[counted])
    found = measure(sums.sum(axis=0)).tolist()
    if clips == 1:
        return [Estimate(value=value, interval=None) for value in found]
    draws = np.random.default_rng(SEED).multinomial(clips, np.full(clips, 1 / clips), RESAMPLES)  # (R, C)
    resampled = measure(draws @ sums)  # (R, M)
    ends = np.percentile(resampled, (50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)), axis=0)  # (2, M)
    return [
        Estimate(value=value, interval=(low, high))
        for value, low, high in zip(found, *ends.tolist(), strict=True)
    ]

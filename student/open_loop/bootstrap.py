"""Means over frames, with confidence intervals by the percentile bootstrap over whole clips.

Frames of one clip are not independent. The seed is fixed.

Dimension letters: N frame, M measure, C clip, R resample.
"""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict

RESAMPLES = 1000
SEED = 0
CONFIDENCE = 0.95

Interval = tuple[float, float]


class Estimate(BaseModel):
    """A mean over frames."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    interval: Interval | None
    """None where all frames are of one clip, which has no spread."""


def means(values: np.ndarray, counted: np.ndarray, clip_of: np.ndarray) -> list[Estimate]:
    """Average M measures (N, M) over the frames that count (N), at least one, with intervals over clips."""
    _, clip = np.unique(clip_of[counted], return_inverse=True)
    frames = np.bincount(clip)  # (C)
    sums = np.zeros((len(frames), values.shape[1]))  # (C, M)
    np.add.at(sums, clip, values[counted])
    mean = (sums.sum(axis=0) / frames.sum()).tolist()
    clips = len(frames)
    if clips == 1:
        return [Estimate(value=value, interval=None) for value in mean]
    draws = np.random.default_rng(SEED).multinomial(clips, np.full(clips, 1 / clips), RESAMPLES)  # (R, C)
    resampled = (draws @ sums) / (draws @ frames)[:, None]  # (R, M)
    ends = np.percentile(resampled, (50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)), axis=0)  # (2, M)
    return [
        Estimate(value=value, interval=(low, high))
        for value, low, high in zip(mean, *ends.tolist(), strict=True)
    ]

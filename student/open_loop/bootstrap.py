"""Means over frames with confidence intervals, for all frames and for groups of them.

Frames of one clip are not independent, so intervals are by the percentile bootstrap over whole clips, drawn
with a fixed seed.

Dimension letters: N frame, M measure, C clip, R resample.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

RESAMPLES = 1000
SEED = 0
CONFIDENCE = 0.95


class Means(NamedTuple):
    """Means of M measures over the frames that count."""

    value: np.ndarray
    """(M)."""
    low: np.ndarray
    """(M) lower end of the interval; NaN where a single clip counts, which has no spread."""
    high: np.ndarray
    """(M) upper end."""
    clips: int
    frames: int


def means(values: np.ndarray, counted: np.ndarray, clip_of: np.ndarray) -> Means:
    """Average over frames, with intervals over clips.

    Args:
        values: (N, M).
        counted: (N) bool, frames that count: at least one.
        clip_of: (N) number of each frame's clip.
    """
    _, clip = np.unique(clip_of[counted], return_inverse=True)
    frames = np.bincount(clip)  # (C)
    sums = np.zeros((len(frames), values.shape[1]))  # (C, M)
    np.add.at(sums, clip, values[counted])
    clips = len(frames)
    value = sums.sum(axis=0) / frames.sum()
    if clips == 1:
        unknown = np.full_like(value, np.nan)
        return Means(value, unknown, unknown, 1, int(frames.sum()))
    draws = np.random.default_rng(SEED).multinomial(clips, np.full(clips, 1 / clips), RESAMPLES)  # (R, C)
    resampled = (draws @ sums) / (draws @ frames)[:, None]  # (R, M)
    low, high = np.percentile(resampled, (50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)), axis=0)
    return Means(value, low, high, clips, int(frames.sum()))


def groups(labels: np.ndarray, counted: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield every label (N) of the frames that count, sorted, and which of these frames (N) bool have it."""
    for label in np.unique(labels[counted]):
        yield str(label), counted & (labels == label)

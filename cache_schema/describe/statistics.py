"""Mean, spread, percentiles and a small histogram of a feature, over all its values in all clips."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dask
import dask.array as da
import numpy as np

if TYPE_CHECKING:
    from cache_schema.dataset.reader import LatentDataset

BLOCK_BYTES = 32 * 2**20
"""Values that a thread turns to float64 at a time."""
BINS = 2**16
"""Bins from minimum to maximum, from which percentiles are read."""
BARS = 16
"""Bars of the histogram."""
PERCENTILES = (1, 50, 99)


@dataclass(frozen=True)
class Statistics:
    """Distribution of the values of one feature."""

    mean: float
    std: float
    minimum: float
    maximum: float
    percentiles: tuple[float, ...]
    """Values of ``PERCENTILES``, to 1/65536 of the range from minimum to maximum."""
    histogram: tuple[int, ...]
    """Counts in ``BARS`` bars of equal width from the first to the last percentile; of integers that take few
    values, in a bar for each."""

    @property
    def bars(self) -> str:
        """The histogram in one line."""
        highest = max(self.histogram)
        return "".join(" ▁▂▃▄▅▆▇█"[-(-8 * count // highest)] for count in self.histogram)


def statistics(dataset: LatentDataset, feature: str) -> Statistics | None:
    """Read all values of a feature twice; memory stays within some blocks a thread.

    Returns:
        Statistics over all values of all clips, of a ragged lower triangle over the triangle; None where
        there is no value at all.

    Raises:
        DatasetError: The stored bytes are not those that were written.
    """
    spec = dataset.feature(feature)
    stored = dataset.dask(feature)
    if not stored.size:
        return None
    frames = max(1, BLOCK_BYTES // max(1, 8 * math.prod(stored.shape[1:])))
    values = stored.rechunk({0: frames}).astype(np.float64)
    low, high, mean, std = map(float, dask.compute(values.min(), values.max(), values.mean(), values.std()))
    integers = np.dtype(spec.dtype).kind in "bui"
    if integers and high - low < BARS:
        bins, edges = int(high - low) + 1, (low - 0.5, high + 0.5)
    else:
        # A constant has a range of its own, as NumPy gives it one.
        bins, edges = BINS, (low, high) if low < high else (low - 0.5, high + 0.5)
    counts = da.histogram(values, bins=bins, range=edges)[0].compute()
    return Statistics(
        mean=mean,
        std=std,
        minimum=low,
        maximum=high,
        percentiles=tuple(
            _percentile(counts, edges, integers, share / 100, low, high) for share in PERCENTILES
        ),
        histogram=tuple(counts.tolist()) if len(counts) <= BARS else _bars(counts),
    )


def _percentile(
    counts: np.ndarray, edges: tuple[float, float], integers: bool, share: float, low: float, high: float
) -> float:
    """Return the value below which a share of all lies, linear within the bin that it falls into."""
    cumulative = np.cumsum(counts)
    position = share * cumulative[-1]
    bin_ = int(np.searchsorted(cumulative, position))
    width = (edges[1] - edges[0]) / len(counts)
    inside = (position - (cumulative[bin_] - counts[bin_])) / counts[bin_]
    value = edges[0] + (bin_ + inside) * width
    return float(np.clip(round(value) if integers else value, low, high))


def _bars(counts: np.ndarray) -> tuple[int, ...]:
    """Return the counts between the first and the last percentile, in ``BARS`` sums."""
    share = np.cumsum(counts) / counts.sum()
    begin, end = np.searchsorted(share, (PERCENTILES[0] / 100, PERCENTILES[-1] / 100))
    cuts = np.linspace(begin, end + 1, BARS + 1).astype(int)
    return tuple(np.diff(np.concatenate(([0], np.cumsum(counts)))[cuts]).tolist())

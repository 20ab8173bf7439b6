"""Intervals and tests over the routes of an evaluation (spec: closed loop, section 4.7).

Routes of one scenario type are alike, so that intervals over whole types, which are wider, stand beside those
over routes.

Dimension letters: N route, K scenario type, B resample.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

RESAMPLES = 20_000
SEED = 0
CONFIDENCE = 0.95

Interval = tuple[float, float]


def spread(values: np.ndarray) -> float | None:
    """Return the standard deviation of values (N); None of one alone."""
    return float(values.std(ddof=1)) if len(values) > 1 else None


def over_routes(values: np.ndarray) -> Interval | None:
    """Return the percentile bootstrap interval of the mean of values (N); None of one alone."""
    count = len(values)
    if count < 2:
        return None
    drawn = np.random.default_rng(SEED).integers(0, count, (RESAMPLES, count))  # (B, N)
    return _percentiles(values[drawn].mean(1))


def over_scenarios(values: np.ndarray, scenarios: Sequence[str]) -> Interval | None:
    """Return the interval of the mean of values (N) where whole scenario types are drawn; None of one type.

    Args:
        values: (N).
        scenarios: N types.
    """
    names, which = np.unique(np.asarray(scenarios), return_inverse=True)
    count = len(names)
    if count < 2:
        return None
    sums, sizes = np.bincount(which, values), np.bincount(which)  # (K)
    drawn = np.random.default_rng(SEED).integers(0, count, (RESAMPLES, count))  # (B, K)
    return _percentiles(sums[drawn].sum(1) / sizes[drawn].sum(1))


def wilson(share: float, count: int) -> Interval:
    """Return Wilson's interval of a share of ``count``, at least one."""
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return max(0.0, centre - half), min(1.0, centre + half)


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p-value of McNemar's test: both kinds of discordant pairs equally likely."""
    from scipy.special import bdtr  # the binomial distribution; takes a moment to import

    pairs, fewer = only_first + only_second, min(only_first, only_second)
    return min(1.0, float(2 * bdtr(fewer, pairs, 0.5))) if pairs else 1.0


def _percentiles(means: np.ndarray) -> Interval:
    low, high = np.percentile(means, (50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)))
    return float(low), float(high)

"""Open-loop distance to the expert, in both definitions in use, and rates (spec Bench2Drive 5.1).

Dimension letters: N frame, T step (of 0.5 s), K horizon.
"""

from __future__ import annotations

import numpy as np

HORIZONS_S = (1, 2, 3)
"""Horizons of the tables."""
STEPS_PER_SECOND = 2
RATE_COLUMNS = ("1s", "2s", "3s", "mean")
"""Of ``rate_columns``."""
COLUMNS = (*(f"up_to_{column}" for column in RATE_COLUMNS), *(f"at_{column}" for column in RATE_COLUMNS))
"""Of ``l2_columns``."""


def l2_up_to(planned: np.ndarray, expert: np.ndarray) -> np.ndarray:
    """Return the mean distance over all steps up to each horizon, as ORION, VAD and Bench2Drive report it.

    Positions are (N, T, 2) in metres, distances (N, K).
    """
    return _up_to(_distance(planned, expert))


def l2_at(planned: np.ndarray, expert: np.ndarray) -> np.ndarray:
    """Return the distance (N, K) at each horizon, as UniAD reports it."""
    distance = _distance(planned, expert)
    return np.stack([distance[:, STEPS_PER_SECOND * k - 1] for k in HORIZONS_S], axis=1)


def l2_columns(planned: np.ndarray, expert: np.ndarray) -> np.ndarray:
    """Return both distances of every frame, each with its mean over the horizons: (N, 8) for ``COLUMNS``."""
    both = [_with_mean(distances(planned, expert)) for distances in (l2_up_to, l2_at)]
    return np.concatenate(both, axis=1)


def rate_columns(hits: np.ndarray) -> np.ndarray:
    """Return the share of hits (N, T) up to each horizon, and their mean: (N, 4) for ``RATE_COLUMNS``."""
    return _with_mean(_up_to(hits.astype(np.float64)))


def _distance(planned: np.ndarray, expert: np.ndarray) -> np.ndarray:
    return np.linalg.norm(planned.astype(np.float64) - expert.astype(np.float64), axis=-1)  # (N, T)


def _up_to(values: np.ndarray) -> np.ndarray:
    return np.stack([values[:, : STEPS_PER_SECOND * k].mean(axis=1) for k in HORIZONS_S], axis=1)  # (N, K)


def _with_mean(values: np.ndarray) -> np.ndarray:
    return np.concatenate([values, values.mean(axis=1, keepdims=True)], axis=1)  # (N, K + 1)

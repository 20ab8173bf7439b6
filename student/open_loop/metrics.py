"""Open-loop distance to the expert, in both definitions in use, and rates (spec Bench2Drive 5.1).

Dimension letters: N frame, T step (of 0.5 s), K horizon.
"""

from __future__ import annotations

import numpy as np

HORIZONS_S = (1, 2, 3)
"""Seconds ahead at which the tables read."""
STEPS_A_SECOND = 2
RATE_COLUMNS = ("1s", "2s", "3s", "mean")
"""Of ``rate_columns``."""
COLUMNS = (*(f"up_to_{column}" for column in RATE_COLUMNS), *(f"at_{column}" for column in RATE_COLUMNS))
"""Of ``l2_columns``."""


def l2_up_to(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean distance over all steps up to each horizon: what ORION, VAD and the Bench2Drive board report.

    Args:
        predicted: (N, T, 2) positions, metres.
        truth: The same for the expert.

    Returns:
        (N, K) metres.
    """
    return _up_to(_distance(predicted, truth))


def l2_at(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Distance at each horizon itself: what UniAD reports; arguments and result as in ``l2_up_to``."""
    distance = _distance(predicted, truth)
    return np.stack([distance[:, STEPS_A_SECOND * k - 1] for k in HORIZONS_S], axis=1)


def l2_columns(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Both distances of every frame, each with its mean over the three horizons: (N, 8) for ``COLUMNS``."""
    both = [_with_mean(distances(predicted, truth)) for distances in (l2_up_to, l2_at)]
    return np.concatenate(both, axis=1)


def rate_columns(hits: np.ndarray) -> np.ndarray:
    """Share of the steps (N, T) up to each horizon that hit, and the mean: (N, 4) for ``RATE_COLUMNS``."""
    return _with_mean(_up_to(hits.astype(np.float64)))


def _distance(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return np.linalg.norm(predicted.astype(np.float64) - truth.astype(np.float64), axis=-1)  # (N, T)


def _up_to(values: np.ndarray) -> np.ndarray:
    return np.stack([values[:, : STEPS_A_SECOND * k].mean(axis=1) for k in HORIZONS_S], axis=1)  # (N, K)


def _with_mean(values: np.ndarray) -> np.ndarray:
    return np.concatenate([values, values.mean(axis=1, keepdims=True)], axis=1)  # (N, K + 1)

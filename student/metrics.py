"""Open-loop distance to the expert, in both definitions in use (spec Bench2Drive 5.1).

Dimension letters: N frame, T step (of 0.5 s), K horizon.
"""

from __future__ import annotations

import numpy as np

HORIZONS_S = (1, 2, 3)
"""Seconds ahead at which the tables read."""
STEPS_A_SECOND = 2
COLUMNS = ("up_to_1s", "up_to_2s", "up_to_3s", "up_to_mean", "at_1s", "at_2s", "at_3s", "at_mean")
"""Of a table."""


def l2_up_to(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean distance over all steps up to each horizon: what ORION, VAD and the Bench2Drive board report.

    Args:
        predicted: (N, T, 2) positions, metres.
        truth: The same for the expert.

    Returns:
        (N, K) metres.
    """
    distance = _distance(predicted, truth)
    return np.stack([distance[:, : STEPS_A_SECOND * k].mean(axis=1) for k in HORIZONS_S], axis=1)


def l2_at(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Distance at each horizon itself: what UniAD reports; arguments and result as in ``l2_up_to``."""
    distance = _distance(predicted, truth)
    return np.stack([distance[:, STEPS_A_SECOND * k - 1] for k in HORIZONS_S], axis=1)


def l2_table(predicted: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> dict[str, float | None]:
    """Average both distances over the frames whose every step is valid.

    Args:
        predicted: (N, T, 2) positions, metres.
        truth: The same for the expert.
        mask: (N, T) bool, steps that have a truth.

    Returns:
        Metres for each of ``COLUMNS``, where a mean is over the three horizons; None where no frame counts.
    """
    counted = mask.all(axis=1)
    table: dict[str, float | None] = {}
    for name, distances in (("up_to", l2_up_to), ("at", l2_at)):
        means = distances(predicted[counted], truth[counted]).mean(axis=0) if counted.any() else None
        for column, k in enumerate(HORIZONS_S):
            table[f"{name}_{k}s"] = None if means is None else float(means[column])
        table[f"{name}_mean"] = None if means is None else float(means.mean())
    return table


def _distance(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return np.linalg.norm(predicted.astype(np.float64) - truth.astype(np.float64), axis=-1)  # (N, T)

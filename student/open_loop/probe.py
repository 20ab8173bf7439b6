"""What codes tell of a driven quantity: a ridge regression on one-hot codes, scored on clips it has not seen.

Dimension letters: F frame of the split, N position of a code, V quantity, S one-hot feature.
"""

from __future__ import annotations

import numpy as np

RIDGE = 1.0
"""Penalty of squared weights beside squared errors: a code is shrunk as if one frame more contradicted it."""


def one_hot(codes: np.ndarray) -> np.ndarray:
    """Return codes (F, N), from 0, as features (F, S) of value 0 or 1, position by position."""
    return np.eye(int(codes.max()) + 1)[codes].reshape(len(codes), -1)


def explained(seen: np.ndarray, values: np.ndarray, clip_of: np.ndarray) -> np.ndarray:
    """Return what every frame adds to R2: 1 - squared error / variance over all frames (F, V).

    Its mean is R2, which is below 0 where the regression does worse than the mean of all frames. Each half of
    the clips, every other one, is told by a regression that was fitted on the other half.

    Args:
        seen: (F, S) what the regression reads; without features, S = 0, it tells its half's mean.
        values: (F, V) the quantities, of which none is constant.
        clip_of: (F) number of the clip of each frame; there is one of an odd and one of an even number.
    """
    told = np.empty_like(values)
    for half in (0, 1):
        held_out = clip_of % 2 == half
        x, y = seen[~held_out], values[~held_out]
        middle, mean = x.mean(axis=0), y.mean(axis=0)
        centred = x - middle
        gram = centred.T @ centred + RIDGE * np.eye(x.shape[1])
        weights = np.linalg.solve(gram, centred.T @ (y - mean))
        told[held_out] = mean + (seen[held_out] - middle) @ weights
    return 1 - np.square(values - told) / values.var(axis=0)

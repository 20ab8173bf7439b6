"""Powell's hybrid method for systems of equations, as MINPACK's ``hybrd`` does it.

ORION's agent takes what it returns for its map reference, and that is not always a solution: the same values
are met only on the same way. MINPACK keeps the factors of the Jacobian; they cancel out of every step, and
the Jacobian itself is kept here.

Source: M. J. D. Powell, "A hybrid method for nonlinear equations" (1970); J. J. Moré, B. S. Garbow,
K. E. Hillstrom, "User guide for MINPACK-1" (1980).

Dimension letters: N equations and unknowns.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

EPSILON = float(np.finfo(np.float64).eps)
X_TOLERANCE = 1.49012e-8
"""Relative size of a step that ends the search: the value that callers of MINPACK usually leave as it is."""
FIRST_RADIUS = 100.0
"""Of the region in which the linear model is trusted, relative to the scaled start."""


def solve(function: Callable[[np.ndarray], np.ndarray], start: np.ndarray) -> np.ndarray:
    """Search a root, and return where the search ended, root or not.

    Args:
        function: (N) float64 -> (N) residuals.
        start: (N) first guess.
    """
    x, value = start, function(start)
    scale = np.zeros_like(start)
    radius, first, failures, successes, stalled, stalled_jacobians = 0.0, True, 0, 0, 0, 0
    evaluations, most = 1, 200 * (len(start) + 1)
    while True:
        jacobian, fresh = _differences(function, x, value), True
        evaluations += len(start)
        columns = np.linalg.norm(jacobian, axis=0)
        if first:
            scale = np.where(columns == 0, 1.0, columns)
            radius = FIRST_RADIUS * float(np.linalg.norm(scale * x)) or FIRST_RADIUS
        scale = np.maximum(scale, columns)
        while fresh or failures != 2:  # at the second failure in a row, but not at the third
            try:
                step = _dogleg(jacobian, scale, value, radius)
            except np.linalg.LinAlgError:  # the last steps changed nothing but roundings
                return x
            length = float(np.linalg.norm(scale * step))
            if first:
                radius = min(radius, length)
            reached = function(x + step)
            evaluations += 1
            foreseen = value + jacobian @ step
            before = float(np.linalg.norm(value))
            actual = _reduction(before, float(np.linalg.norm(reached)), worse=-1.0)
            predicted = _reduction(before, float(np.linalg.norm(foreseen)), worse=0.0)
            ratio = actual / predicted if predicted > 0 else 0.0
            if ratio < 0.1:
                failures, successes, radius = failures + 1, 0, radius / 2
            else:
                failures, successes = 0, successes + 1
                if ratio >= 0.5 or successes > 1:
                    radius = max(radius, 2 * length)
                if abs(ratio - 1) <= 0.1:
                    radius = 2 * length
            if ratio >= 1e-4:
                x, value, first = x + step, reached, False
            stalled = 0 if actual >= 1e-3 else stalled + 1
            stalled_jacobians = 0 if actual >= 0.1 else stalled_jacobians + fresh
            size = float(np.linalg.norm(scale * x))
            converged = radius <= X_TOLERANCE * size or not value.any()
            exhausted = evaluations >= most or 0.1 * max(0.1 * radius, length) <= EPSILON * size
            if converged or exhausted or stalled_jacobians == 5 or stalled == 10:
                return x
            fresh = False
            jacobian = jacobian + np.outer(reached - foreseen, scale**2 * step) / length**2


def _differences(
    function: Callable[[np.ndarray], np.ndarray], x: np.ndarray, value: np.ndarray
) -> np.ndarray:
    """Return the (N, N) Jacobian by forward differences."""
    step = math.sqrt(EPSILON) * np.abs(x)
    step[step == 0] = math.sqrt(EPSILON)
    return np.stack([(function(x + h) - value) / h.sum() for h in np.diag(step)], axis=1)


def _reduction(before: float, after: float, *, worse: float) -> float:
    return 1 - (after / before) ** 2 if after < before else worse


def _dogleg(jacobian: np.ndarray, scale: np.ndarray, value: np.ndarray, radius: float) -> np.ndarray:
    """Return the (N) step within the radius: Newton's, or bent from the steepest descent towards it."""
    newton = np.linalg.solve(jacobian, -value)
    newton_length = float(np.linalg.norm(scale * newton))
    if newton_length <= radius:
        return newton
    gradient = jacobian.T @ value / scale
    slope = float(np.linalg.norm(gradient))
    if slope == 0:
        return radius / newton_length * newton
    descent = -gradient / slope / scale
    along = float(np.linalg.norm(jacobian @ descent))
    cauchy = slope / along / along  # length at which the linear model is smallest
    bent = 0.0
    if cauchy < radius:
        part, share = cauchy / radius, radius / newton_length
        turn = float(np.linalg.norm(value)) / slope * float(np.linalg.norm(value)) / newton_length * part
        root = math.sqrt((turn - share) ** 2 + (1 - share**2) * (1 - part**2))
        bent = share * (1 - part**2) / (turn - share * part**2 + root)
    return (1 - bent) * min(cauchy, radius) * descent + bent * newton

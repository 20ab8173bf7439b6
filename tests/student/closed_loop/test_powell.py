"""Systems of MINPACK's tests and others: where ``hybrd`` ends, root or not, and after how many evaluations.

Recorded with ``scipy.optimize.fsolve`` of SciPy 1.17.1, without the two by which it looks at shapes.
"""

import math

import numpy as np
import pytest

from student.closed_loop.powell import solve


def product(x, y):
    return x * math.cos(y) - 4, x * y - y - 5


def rosenbrock(x, y):
    return 10 * (y - x * x), 1 - x


def badly_scaled(x, y):
    return 1e4 * x * y - 1, math.exp(-x) + math.exp(-y) - 1.0001


def freudenstein_roth(x, y):
    return -13 + x + ((5 - y) * y - 2) * y, -29 + x + ((y + 1) * y - 14) * y


def helical_valley(x, y, z):
    turns = math.atan(y / x) / (2 * math.pi) + (0.5 if x < 0 else 0)
    return 10 * (z - 10 * turns), 10 * (math.hypot(x, y) - 1), z


def wave(x, y):
    return math.sin(3 * x) + 0.3 * y - 1.5, x * x - y * y + 0.5 * x * y


@pytest.mark.parametrize(
    ("system", "start", "end", "evaluations"),
    [
        (product, [1, 1], [6.504097106706195, 0.908414205469625], 17),
        (rosenbrock, [-1.2, 1], [1.0, 1.0], 26),
        (badly_scaled, [0, 1], [1.098159329265396e-05, 9.106146741255518], 177),
        (wave, [10, -10], [2.313530395512712, 2.963115146083593], 28),
        (freudenstein_roth, [0.5, -2], [11.412708238997336, -0.8967944470469356], 34),
        (helical_valley, [-100, 0, 0], [-92.3505930105112, -14.894349238092962, 0.3613862749066882], 38),
        (product, [-10, 30], [1.8607387075130204, 6.208419112034809], 46),
    ],
)
def test_the_search_ends_where_minpack_ends(system, start, end, evaluations):
    seen = []

    def residuals(unknowns):
        seen.append(unknowns)
        return np.array(system(*unknowns.tolist()))

    # Where there is no root, ways that differ in roundings end 1e-6 apart.
    np.testing.assert_allclose(solve(residuals, np.array(start, dtype=float)), end, rtol=1e-4, atol=1e-9)
    assert len(seen) == evaluations

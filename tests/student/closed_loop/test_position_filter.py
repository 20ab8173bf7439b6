import math

import numpy as np
import pytest

from student.closed_loop.position_filter import GNSS_DEVIATION_M, PositionFilter

TICK_S = 0.05


def test_the_second_position_by_hand():
    position = PositionFilter()
    assert position.step(np.zeros(2), 8.0, 0.0, 0.0).tolist() == [0, 0]
    # At 8, then 12 m/s to the north: 0.5 m. Both positions are as good, to the 1 cm that braking could have
    # changed: (0.55660^2 + 0.01^2) / (2 * 0.55660^2 + 0.01^2) = 0.500081 of the way to what is measured.
    found = position.step(np.array([1.0, 0.1]), 12.0, math.pi / 2, TICK_S)
    np.testing.assert_allclose(found, [0.500081, 0.5 - 0.4 * 0.500081], atol=1e-6)


def test_the_noise_of_bench2drive():
    """5e-6 degrees of a meridian of 40,075 km."""
    assert pytest.approx(40_075_017 * 5e-6 / 360, abs=1e-5) == GNSS_DEVIATION_M


def drive_in_a_circle(noise_m, ticks=1200, radius=20.0, speed=8.0):
    """Distances between the filtered and the true positions, and between the measured and the true ones."""
    random, position, errors = np.random.default_rng(0), PositionFilter(), []
    turn = speed / radius * TICK_S
    for tick in range(ticks):
        yaw = turn * tick
        true = radius * np.array([math.sin(yaw), -math.cos(yaw)])
        measured = true + noise_m * random.standard_normal(2)
        filtered = position.step(measured, speed, yaw - turn / 2, TICK_S if tick else 0.0)
        errors.append([np.linalg.norm(filtered - true), np.linalg.norm(measured - true)])
    return np.array(errors).T


def test_a_bend_without_noise_is_followed():
    assert drive_in_a_circle(0.0)[0].max() < 1e-3


def test_noise_is_filtered_as_the_gain_promises():
    # In the end, the gain g solves g^2 / (1 - g) = (0.01 / 0.5566)^2: 0.0178. The variance that is left is
    # that share of the measured one.
    filtered, measured = drive_in_a_circle(GNSS_DEVIATION_M)
    ratio = np.sqrt(np.mean(filtered[200:] ** 2) / np.mean(measured[200:] ** 2))
    assert ratio == pytest.approx(math.sqrt(0.0178), rel=0.5)

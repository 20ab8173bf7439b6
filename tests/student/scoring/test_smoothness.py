"""The filter and the bounds, against values worked out by hand."""

import numpy as np
import pytest

from cache_schema.errors import RequestError
from student.scoring.smoothness import Motion, in_radians, passing_chunks, read_motion, smoothed

PUBLISHED_SMOOTHING = np.array([-2, 3, 6, 7, 6, 3, -2]) / 21
"""Savitzky and Golay's table for a parabola through 7 values; their slope is (-3 .. 3) / 28."""


def motion(steps, *, forward=0.0, lateral=0.0, yaw=0.0):
    """A drive along x: accelerations (m/s^2) and yaw rate (degrees/s), for all steps or each."""
    acceleration, velocity, ahead, right = (np.zeros((steps, 3)) for _ in range(4))
    acceleration[:, 0], acceleration[:, 1], velocity[:, 2] = forward, lateral, yaw
    ahead[:, 0], right[:, 1] = 1, 1
    return Motion(acceleration, velocity, ahead, right)


def test_inside_the_filter_is_savitzky_and_golays_table():
    values = np.random.default_rng(3).normal(size=20)
    around = [values[at - 3 : at + 4] for at in range(3, 17)]
    assert smoothed(values)[3:-3] == pytest.approx([PUBLISHED_SMOOTHING @ part for part in around])
    slopes = [np.arange(-3, 4) / 28 @ part / 0.1 for part in around]
    assert smoothed(values, derivative=True)[3:-3] == pytest.approx(slopes)


@pytest.mark.parametrize("steps", [3, 4, 5, 6, 7, 8, 20])
def test_a_parabola_stays_what_it_is_up_to_both_ends(steps):
    seconds = 0.1 * np.arange(steps)
    values = 2 - 3 * seconds + 4 * seconds**2
    assert smoothed(values) == pytest.approx(values)
    assert smoothed(values, derivative=True) == pytest.approx(-3 + 8 * seconds)


@pytest.mark.parametrize(
    ("driven", "passes"),
    [
        ({"forward": 2.39}, True),
        ({"forward": 2.41}, False),
        ({"forward": -4.04}, True),
        ({"forward": -4.06}, False),
        ({"lateral": 4.88}, True),
        ({"lateral": -4.90}, False),
        ({"yaw": 0.94}, True),
        ({"yaw": -0.96}, False),
        # 0.41 m/s^2 more at every step of 0.1 s: 4.1 m/s^3, and 4.2 m/s^3.
        ({"forward": -3.9 + 0.41 * np.arange(15)}, True),
        ({"forward": -3.9 + 0.42 * np.arange(15)}, False),
        # Across, only the change of the magnitude is bounded: 8.3 m/s^3, and 8.4 m/s^3.
        ({"lateral": 0.1 + 0.83 * np.arange(5)}, True),
        ({"lateral": 0.1 + 0.84 * np.arange(5)}, False),
    ],
)
def test_bounds(driven, passes):
    steps = max(np.size(value) for value in driven.values())
    assert passing_chunks(motion(steps if steps > 1 else 20, **driven)) == (passes,)


def test_a_bend_fails_in_degrees_and_passes_in_radians():
    bend = motion(20, yaw=30.0)
    assert passing_chunks(bend) == (False,)
    assert passing_chunks(in_radians(bend)) == (True,)


def test_a_jump_of_a_whole_turn_between_yaw_rates_is_taken_out():
    """The script unwraps yaw rates as if they were angles: 2 pi more from one step on is nothing."""
    rates = np.where(np.arange(20) < 10, 0.0, 2 * np.pi)
    assert passing_chunks(motion(20, yaw=rates)) == (True,)
    assert passing_chunks(motion(20, yaw=np.where(np.arange(20) < 10, 0.0, np.pi + 1.2))) == (False,)


@pytest.mark.parametrize(
    ("steps", "chunks"), [(2, None), (3, 1), (19, 1), (20, 1), (21, 1), (39, 1), (40, 2), (59, 2)]
)
def test_chunks_of_20_steps(steps, chunks):
    found = passing_chunks(motion(steps))
    assert (None if found is None else len(found)) == chunks


def test_what_an_incomplete_last_chunk_holds_does_not_count():
    rough = np.where(np.arange(30) < 20, 0.0, 9.0)
    assert passing_chunks(motion(30, lateral=rough)) == (True,)


@pytest.mark.parametrize("content", ["", "[]", '{"0": {"acceleration": [1, 2]}}'])
def test_a_damaged_file_is_the_users_error(tmp_path, content):
    (tmp_path / "metric_info.json").write_text(content)
    with pytest.raises(RequestError, match=r"metric_info\.json, cannot be read"):
        read_motion(tmp_path / "metric_info.json")


@pytest.mark.parametrize("share", [0.99, 1.01])
def test_jerk_is_the_slope_of_what_is_smoothed_already(share):
    """One step across that is as high as the bound allows, by the published tables of both filters."""
    largest = abs(np.convolve(PUBLISHED_SMOOTHING, np.arange(-3, 4) / 28 / 0.1)).max()
    spike = np.where(np.arange(20) == 10, share * 8.37 / largest, 0.0)
    assert passing_chunks(motion(20, lateral=spike)) == (share < 1,)

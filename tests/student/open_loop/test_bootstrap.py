import numpy as np
import pytest

from student.open_loop.bootstrap import Estimate, means


def test_frames_are_averaged_and_clips_are_drawn():
    # Clip 0 has two frames that count, clip 1 one: a draw has 2:1, 4:0 or 0:2 of them.
    values = np.array([[1.0], [2.0], [50.0], [6.0]])
    found = means(values, np.array([True, True, False, True]), np.array([0, 0, 0, 1]))
    assert found == [Estimate(value=3.0, interval=(1.5, 6.0))]


def test_one_clip_has_no_interval():
    found = means(np.array([[1.0, 2.0]] * 3), np.ones(3, dtype=bool), np.zeros(3, dtype=int))
    assert [(estimate.value, estimate.interval) for estimate in found] == [(1.0, None), (2.0, None)]


def test_the_interval_is_that_of_the_mean_of_clips():
    rng = np.random.default_rng(7)
    of_clip = rng.normal(5.0, 1.0, 400)
    for frames in (1, 25):  # more frames of the same clips add no information
        values = np.repeat(of_clip, frames)[:, None]
        (found,) = means(values, np.ones(len(values), dtype=bool), np.repeat(np.arange(400), frames))
        error = of_clip.std() / 20
        low, high = found.interval
        assert low == pytest.approx(of_clip.mean() - 1.96 * error, abs=0.3 * error)
        assert high == pytest.approx(of_clip.mean() + 1.96 * error, abs=0.3 * error)


def test_equal_calls_give_equal_intervals():
    rng = np.random.default_rng(1)
    values, clip = rng.normal(size=(60, 3)), np.repeat(np.arange(6), 10)
    first, second = (means(values, np.ones(60, dtype=bool), clip) for _ in range(2))
    assert first == second

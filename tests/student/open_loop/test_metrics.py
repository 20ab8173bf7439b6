import numpy as np
import pytest

from student.open_loop.metrics import COLUMNS, RATE_COLUMNS, l2_at, l2_columns, l2_up_to, rate_columns


def test_l2_matches_the_recording(recorded_metric):
    distances = l2_up_to(recorded_metric["in.pred"], recorded_metric["in.gt"])
    valid = recorded_metric["in.fut_valid_flag"] == 1
    assert valid.sum() == recorded_metric["avg.num_valid"]
    for column, seconds in enumerate((1, 2, 3)):
        recorded = recorded_metric[f"out.plan_L2_{seconds}s"]
        np.testing.assert_allclose(distances[:, column], recorded, rtol=0, atol=1e-5)
        mean = recorded_metric[f"avg.plan_L2_{seconds}s"]
        assert distances[valid, column].mean() == pytest.approx(mean, rel=0, abs=1e-5)


def test_the_two_definitions_by_hand():
    expert = np.zeros((1, 6, 2))
    planned = np.stack([np.zeros(6), np.arange(1.0, 7.0)], axis=1)[None]  # 1 m ... 6 m ahead
    assert l2_up_to(planned, expert).tolist() == [[1.5, 2.5, 3.5]]
    assert l2_at(planned, expert).tolist() == [[2.0, 4.0, 6.0]]
    assert dict(zip(COLUMNS, l2_columns(planned, expert)[0].tolist(), strict=True)) == {
        "up_to_1s": 1.5,
        "up_to_2s": 2.5,
        "up_to_3s": 3.5,
        "up_to_mean": 2.5,
        "at_1s": 2.0,
        "at_2s": 4.0,
        "at_3s": 6.0,
        "at_mean": 4.0,
    }


def test_rates_by_hand():
    hits = np.array([[0, 1, 0, 0, 1, 1], [0] * 6], dtype=bool)
    assert RATE_COLUMNS == ("1s", "2s", "3s", "mean")
    np.testing.assert_allclose(rate_columns(hits), [[1 / 2, 1 / 4, 1 / 2, 5 / 12], [0] * 4])

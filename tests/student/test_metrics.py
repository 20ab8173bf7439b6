from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from student.metrics import l2_at, l2_table, l2_up_to

VECTORS = load_file(Path(__file__).parents[1] / "golden/metric/vectors.safetensors")


def test_l2_matches_the_recording():
    distances = l2_up_to(VECTORS["in.pred"], VECTORS["in.gt"])
    valid = VECTORS["in.fut_valid_flag"] == 1
    table = l2_table(VECTORS["in.pred"], VECTORS["in.gt"], np.repeat(valid[:, None], 6, axis=1))
    assert valid.sum() == VECTORS["avg.num_valid"]
    for column, seconds in enumerate((1, 2, 3)):
        np.testing.assert_allclose(
            distances[:, column], VECTORS[f"out.plan_L2_{seconds}s"], rtol=0, atol=1e-5
        )
        assert table[f"up_to_{seconds}s"] == pytest.approx(
            VECTORS[f"avg.plan_L2_{seconds}s"], rel=0, abs=1e-5
        )


def test_the_two_definitions_by_hand():
    truth = np.zeros((1, 6, 2))
    predicted = np.stack([np.zeros(6), np.arange(1.0, 7.0)], axis=1)[None]  # 1 m ... 6 m ahead
    assert l2_up_to(predicted, truth).tolist() == [[1.5, 2.5, 3.5]]
    assert l2_at(predicted, truth).tolist() == [[2.0, 4.0, 6.0]]
    assert l2_table(predicted, truth, np.ones((1, 6), dtype=bool)) == {
        "up_to_1s": 1.5,
        "up_to_2s": 2.5,
        "up_to_3s": 3.5,
        "up_to_mean": 2.5,
        "at_1s": 2.0,
        "at_2s": 4.0,
        "at_3s": 6.0,
        "at_mean": 4.0,
    }


def test_only_frames_with_every_step_valid_count():
    predicted = np.stack([np.full((6, 2), 3.0), np.full((6, 2), 100.0)])
    mask = np.ones((2, 6), dtype=bool)
    mask[1, 5] = False
    table = l2_table(predicted, np.zeros((2, 6, 2)), mask)
    assert table["up_to_3s"] == pytest.approx(18**0.5)
    assert set(l2_table(predicted, predicted, np.zeros((2, 6), dtype=bool)).values()) == {None}

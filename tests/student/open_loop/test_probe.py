import numpy as np
import pytest

from student.open_loop.probe import explained, one_hot


def test_codes_are_features_position_by_position():
    assert one_hot(np.array([[0, 2], [1, 0]])).tolist() == [[1, 0, 0, 0, 0, 1], [0, 1, 0, 1, 0, 0]]


def test_a_regression_tells_the_half_that_it_has_not_seen():
    # In a clip, features are +-1/2 about their mean, the quantity +-1 about 1 (clip 0) or +-3 (clip 1). Both
    # features are opposite, so that X'X + 1 has eigenvalue 2 along them: weights are -+1/2 or -+3/2, which
    # tell -+1/2 or -+3/2 about 1, half of what is so.
    codes, clip_of = np.array([[0], [1], [0], [1]]), np.array([0, 0, 1, 1])
    values = np.array([[0.0], [2.0], [-2.0], [4.0]])
    # Clip 0 is told -1/2 and 5/2, errors 1/2; clip 1 is told 1/2 and 3/2, errors 5/2. The variance is 5.
    found = explained(one_hot(codes), values, clip_of)
    assert found[:, 0] == pytest.approx([1 - 0.25 / 5] * 2 + [1 - 6.25 / 5] * 2)
    constant = explained(np.empty((4, 0)), values, clip_of)
    assert constant[:, 0] == pytest.approx([1 - 1 / 5] * 2 + [1 - 9 / 5] * 2)
    assert constant.mean() == pytest.approx(0)

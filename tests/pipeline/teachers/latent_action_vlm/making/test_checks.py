import numpy as np
import pytest

from pipeline.teachers.latent_action_vlm.making.checks import one_hot, probe, usage


def test_usage_of_two_equally_frequent_codes():
    found = usage(np.array([[0, 3], [3, 0]]), 4)
    assert (found.used, found.codes) == (2, 4)
    assert found.perplexity == pytest.approx(2.0)
    assert usage(np.zeros((5, 2), dtype=int), 4).perplexity == pytest.approx(1.0)


def test_one_hot():
    assert one_hot(np.array([[1, 0]]), 3).tolist() == [[0, 1, 0, 1, 0, 0]]


def test_a_probe_that_sees_nothing_predicts_the_mean_of_training():
    """Which is 0; the held-out samples' own mean is 2, around which they vary by 2 in all."""
    nothing = np.zeros((2, 1))
    assert probe(nothing, np.array([[-1.0], [1.0]]), nothing, np.array([[1.0], [3.0]])) == (1 - 10 / 2,)


def test_a_probe_finds_what_codes_tell():
    codes = np.random.default_rng(0).integers(0, 4, (4000, 2))
    target = np.stack([codes[:, 0] * 2.0 - codes[:, 1], np.random.default_rng(1).normal(size=4000)], axis=1)
    seen = one_hot(codes, 4)
    told, noise = probe(seen[:3000], target[:3000], seen[3000:], target[3000:])
    assert told > 0.999
    assert abs(noise) < 0.02

import pytest
import torch
from torch import nn

from student.runs.config import TrainConfig
from student.training.ema import MovingAverage
from student.training.schedule import averaging_decay, learning_rate, term_factor
from student.training.seeding import latent_noise, seed_dropout


def test_a_constant_rate_is_constant():
    assert {learning_rate(TrainConfig(), step, 100) for step in range(100)} == {5e-5}


def test_a_rate_warms_up_and_follows_a_cosine_to_nothing():
    recipe = TrainConfig(learning_rate=1.0, schedule="cosine", warmup_steps=4)
    rates = [learning_rate(recipe, step, 12) for step in range(13)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    # cos(pi / 4) = 0.70711, two of eight steps on
    assert rates[6] == pytest.approx(0.5 * (1 + 0.70711), abs=1e-5)
    assert rates[8] == pytest.approx(0.5)
    assert rates[12] == pytest.approx(0.0)


def test_a_term_warms_up_and_the_others_do_not():
    recipe = TrainConfig(term_warmup_steps={"latent": 4})
    assert [term_factor(recipe, "latent", step) for step in (0, 1, 3, 9)] == [0.25, 0.5, 1.0, 1.0]
    assert term_factor(recipe, "mimic", 0) == 1.0


def test_an_average_follows_slowly_and_faster_at_first():
    assert [averaging_decay(0.9, step) for step in (0, 8, 1000)] == [0.1, 0.5, 0.9]
    layer = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(1.0)
        average = MovingAverage(layer, 0.9)
        layer.weight.fill_(2.0)
        average.update(8)  # 0.5 * 1 + 0.5 * 2
        assert average.weights["weight"].item() == pytest.approx(1.5)
        average.update(1000)  # 0.9 * 1.5 + 0.1 * 2
        assert average.weights["weight"].item() == pytest.approx(1.55)


def test_noise_and_dropout_follow_from_seed_and_step_alone():
    noise = latent_noise(3, 7, 4, 5)
    assert noise.shape == (4, 1, 5)
    torch.manual_seed(99)
    assert torch.equal(noise, latent_noise(3, 7, 4, 5))
    assert not torch.equal(noise, latent_noise(3, 8, 4, 5))
    assert not torch.equal(noise, latent_noise(4, 7, 4, 5))
    drawn = []
    for given in ((3, 7, 0), (3, 7, 0), (3, 7, 1), (3, 8, 0)):
        seed_dropout(*given)
        drawn.append(torch.rand(8).tolist())
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2] != drawn[3] != drawn[0]

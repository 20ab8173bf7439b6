import copy

import numpy as np
import pytest
import torch
from torch import nn

from student.runs.config import TrainingConfig
from student.step import StepContext, seed_dropout
from student.system import LossConfig
from student.training.distributed import join_processes
from student.training.optim import MovingAverage, adamw, clip, clip_divisor, ema_decay, learning_rate


def test_a_constant_rate_is_constant():
    assert {learning_rate(TrainingConfig(), step, 100) for step in range(100)} == {5e-5}


def test_a_rate_warms_up_and_follows_a_cosine_to_nothing():
    config = TrainingConfig(learning_rate=1.0, schedule="cosine", warmup_steps=4)
    rates = [learning_rate(config, step, 12) for step in range(13)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    # cos(pi / 4) = 0.70711, two of eight steps on
    assert rates[6] == pytest.approx(0.5 * (1 + 0.70711), abs=1e-5)
    assert rates[8] == pytest.approx(0.5)
    assert rates[12] == pytest.approx(0.0)


@pytest.mark.parametrize("limit", [0.01, 1e6])
@pytest.mark.parametrize("scaled", [False, True])
def test_an_optimiser_that_divides_clips_like_torch(limit, scaled):
    """Beside the scaler of fp16, too, and beside a gradient that overflowed."""
    torch.manual_seed(0)
    dividing = nn.Linear(4, 3)
    clipped = copy.deepcopy(dividing)
    given = torch.randn(5, 4)
    for overflows in (False, True) if scaled else (False,):
        before = copy.deepcopy(dividing.state_dict())
        norms, moments = [], []
        for model in (dividing, clipped):
            optimizer = adamw(model, TrainingConfig(learning_rate=0.1))
            scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=scaled)
            loss = scaler.scale(model(given).square().mean() * (float("inf") if overflows else 1.0))
            loss.backward()
            scaler.unscale_(optimizer)
            gradients = [weight.grad for weight in model.parameters()]
            norms.append(nn.utils.get_total_norm(gradients))
            if model is dividing:
                optimizer.grad_scale = clip_divisor(norms[0], limit)
            else:
                nn.utils.clip_grad_norm_(model.parameters(), limit)
            scaler.step(optimizer)
            moments.append([state["exp_avg"] for state in optimizer.state.values()])
        for one, other, start in zip(
            dividing.parameters(), clipped.parameters(), before.values(), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
            assert torch.equal(one, start) is overflows
        for one, other in zip(*moments, strict=True):  # Adam's step itself hardly depends on the size
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("limit", "left"), [(1.0, [0.6, 0.8]), (10.0, [3.0, 4.0]), (None, [3.0, 4.0])])
def test_without_a_limit_a_gradient_stays_as_it_is(limit, left, tmp_path):
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    accelerator = join_processes(TrainingConfig(), device="cpu", trackers=(), logs=tmp_path)
    optimizer = torch.optim.AdamW([weight])
    assert clip(accelerator, optimizer, [weight], limit).item() == 5.0
    assert weight.grad.tolist() == pytest.approx(left, rel=1e-5)


def test_a_term_warms_up_and_the_others_do_not():
    term = torch.tensor(1.0)
    rising = [LossConfig(warmup_steps=4).warmed_up(term, step).item() for step in (0, 1, 3, 9)]
    assert rising == [0.25, 0.5, 1.0, 1.0]
    assert LossConfig().warmed_up(term, 0) is term


def test_an_average_follows_slowly_and_faster_at_first():
    assert [ema_decay(0.9, step) for step in (0, 8, 1000)] == [0.1, 0.5, 0.9]
    layer = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(1.0)
        average = MovingAverage(layer, 0.9)
        layer.weight.fill_(2.0)
        average.update(8)  # 0.5 * 1 + 0.5 * 2
        assert average.weights["weight"].item() == pytest.approx(1.5)
        average.update(1000)  # 0.9 * 1.5 + 0.1 * 2
        assert average.weights["weight"].item() == pytest.approx(1.55)


def test_averaged_weights_are_used_in_place_and_put_back():
    layer = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(1.0)
        average = MovingAverage(layer, 0.9)
        layer.weight.fill_(2.0)
    places = layer.weight.data_ptr(), average.weights["weight"].data_ptr()
    with average.in_place():
        assert layer(torch.ones(1)).item() == 1.0
        # Memory stays: recurrent layers lie behind one another for cuDNN, and a graph knows addresses.
        assert (layer.weight.data_ptr(), average.weights["weight"].data_ptr()) == places
    assert layer(torch.ones(1)).item() == 2.0
    assert average.weights["weight"].item() == 1.0


def context(seed, step, *, process=0, processes=1):
    positions = np.arange(4)[process::processes]
    return StepContext(seed, step, samples=4, positions=positions, device=torch.device("cpu"))


def test_noise_follows_from_seed_and_step_alone():
    noise = context(3, 7).randn(1, 5)
    assert noise.shape == (4, 1, 5)
    torch.manual_seed(99)
    assert torch.equal(noise, context(3, 7).randn(1, 5))
    assert not torch.equal(noise, context(3, 8).randn(1, 5))
    assert not torch.equal(noise, context(4, 7).randn(1, 5))
    twice = context(3, 7)
    assert not torch.equal(twice.randn(1, 5), twice.randn(1, 5))


def test_processes_draw_what_one_process_draws():
    alone, second = context(3, 7), context(3, 7, process=1, processes=2)
    for _ in range(2):
        assert torch.equal(alone.randn(1, 5)[1::2], second.randn(1, 5))
    assert alone.rng().permutation(9).tolist() == second.rng().permutation(9).tolist()
    assert alone.rng().permutation(9).tolist() != context(3, 8).rng().permutation(9).tolist()
    orders = [alone.rng(*more).permutation(9).tolist() for more in ((), (1,), (2,), (1, 2))]
    assert orders[1] == second.rng(1).permutation(9).tolist()
    assert len({tuple(order) for order in orders}) == 4
    assert alone.factors == {}


def test_dropout_follows_from_seed_step_and_process_alone():
    drawn = []
    for given in ((3, 7, 0), (3, 7, 0), (3, 7, 1), (3, 8, 0)):
        seed_dropout(*given)
        drawn.append(torch.rand(8).tolist())
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2] != drawn[3] != drawn[0]

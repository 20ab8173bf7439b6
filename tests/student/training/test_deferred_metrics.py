import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from student.training.deferred_metrics import LAG, DeferredMetrics, DivergenceError, finite_samples


@pytest.fixture
def metrics():
    AcceleratorState._reset_state(reset_partial_state=True)
    return DeferredMetrics(Accelerator(cpu=True), ("mimic", "total"))


def add(metrics, step, *, mimic=1.0, gradient=2.0, token=(0.0, 0.0)):
    losses = {"mimic": torch.tensor(mimic), "total": torch.tensor(mimic)}
    names = [f"clip {2 * step}", f"clip {2 * step + 1}"]
    return metrics.add(
        1,
        step,
        2,
        names=names,
        share=1.0,
        losses=losses,
        gradient=torch.tensor(gradient),
        finite=finite_samples((torch.tensor(token)[:, None], torch.zeros(2, 6, 6, 2), torch.zeros(2))),
    )


def test_steps_are_read_in_order_two_steps_later(metrics):
    steps = [[read.step for read in add(metrics, step, mimic=float(step))] for step in range(5)]
    assert steps == [[], [], [0], [1], [2]]
    last = metrics.flush()
    assert [(read.step, read.losses["mimic"], read.gradient) for read in last] == [
        (3, 3.0, 2.0),
        (4, 4.0, 2.0),
    ]
    assert LAG == 2


def test_a_loss_that_is_not_finite_names_its_own_samples_though_other_steps_are_pending(metrics):
    add(metrics, 0)
    add(metrics, 1, mimic=float("nan"), token=(0.0, float("nan")))
    add(metrics, 2)
    with pytest.raises(DivergenceError, match=r"epoch 1, step 1: mimic .* for 1 of 2 samples: clip 3"):
        metrics.flush()


def test_a_gradient_that_is_not_finite_stops_and_names_all_samples(metrics):
    add(metrics, 5, gradient=float("inf"))
    with pytest.raises(DivergenceError, match=r"the gradient .* for 2 of 2 samples: clip 10, clip 11"):
        metrics.flush()

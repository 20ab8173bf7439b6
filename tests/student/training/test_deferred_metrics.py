import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from student.orion_lite.model import Prediction
from student.orion_lite.planner import Gaussian
from student.training.deferred_metrics import LAG, DivergenceError, Watch


@pytest.fixture
def watch():
    AcceleratorState._reset_state(reset_partial_state=True)
    return Watch(Accelerator(cpu=True), ("mimic", "total"))


def add(watch, step, *, mimic=1.0, gradient=2.0, token=(0.0, 0.0)):
    normal = Gaussian(torch.zeros(2, 1, 4), torch.zeros(2, 1, 4))
    predicted = Prediction(torch.tensor(token)[:, None], torch.zeros(2, 6, 6, 2), normal, None)
    terms = {"mimic": torch.tensor(mimic), "total": torch.tensor(mimic)}
    names = [f"clip {2 * step}", f"clip {2 * step + 1}"]
    return watch.add(
        1,
        step,
        2,
        names=names,
        share=1.0,
        terms=terms,
        gradient=torch.tensor(gradient),
        predicted=predicted,
    )


def test_steps_are_told_in_order_a_little_later(watch):
    told = [[seen.step for seen in add(watch, step, mimic=float(step))] for step in range(5)]
    assert told == [[], [], [0], [1], [2]]
    last = watch.flush()
    assert [(seen.step, seen.terms["mimic"], seen.gradient) for seen in last] == [
        (3, 3.0, 2.0),
        (4, 4.0, 2.0),
    ]
    assert LAG == 2


def test_a_loss_that_is_not_finite_names_its_own_frames_though_others_are_under_way(watch):
    add(watch, 0)
    add(watch, 1, mimic=float("nan"), token=(0.0, float("nan")))
    add(watch, 2)
    with pytest.raises(DivergenceError, match=r"epoch 1, step 1: mimic .* for 1 of 2 frames: clip 3"):
        watch.flush()


def test_a_gradient_that_is_not_finite_stops_and_names_all_frames(watch):
    add(watch, 5, gradient=float("inf"))
    with pytest.raises(DivergenceError, match=r"the gradient .* for 2 of 2 frames: clip 10, clip 11"):
        watch.flush()

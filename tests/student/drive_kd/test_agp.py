"""Projected gradients against the authors' step on plain vectors, for every permutation."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from student.drive_kd.agp import projected
from student.drive_kd.config import DriveKdConfig
from student.drive_kd.gradients import products, reaches
from student.drive_kd.losses import LOSSES, Loss
from student.drive_kd.rule import DriveKdRule, drawn
from student.step import StepContext
from student.system import build_losses
from tests.student.drive_kd.recorded import SET, SLOTS, TERMS

VECTORS = {vectors["name"]: vectors for vectors in json.loads((SET / "agp_vectors.json").read_text())}
STAGES = {"stage_1": True, "stage_2": True, "ce_once": False}


def one_sample(step=0, position=0, samples=1):
    return StepContext(0, step, samples=samples, positions=np.array([position]), device=torch.device("cpu"))


def step_of(vectors, order, **options):
    """Take one micro-batch by the rule itself, on losses linear in the weights; return the gradient."""
    shapes = [
        len(next(g[place] for g in vectors["gradients"].values() if g[place]))
        for place in range(len(vectors["gradients"]["ce"]))
    ]
    weights = [nn.Parameter(torch.zeros(size)) for size in shapes]
    pi = dict(zip(SLOTS, vectors["pi"], strict=True))
    factors = {TERMS[term]: weight * pi.get(term, 1.0) for term, weight in vectors["weights"].items()}
    losses = {
        TERMS[term]: factors[TERMS[term]]
        * torch.stack(
            [
                torch.tensor(gradient) @ weight
                for gradient, weight in zip(gradients, weights, strict=True)
                if gradient is not None
            ]
        ).sum()
        for term, gradients in vectors["gradients"].items()
    }
    options = {"combination": "agp", **options}
    rule = DriveKdRule(
        DriveKdConfig.model_validate(options),
        build_losses(LOSSES, {name: {} for name in losses}, Loss),
        order=lambda rng, followers: [SLOTS[slot] for slot in order if SLOTS[slot] in followers],
    )
    context = one_sample()
    context.factors.update(factors)
    rule(losses, weights, lambda loss: loss, context)
    rule.end_step(weights, lambda value: value, context)
    return torch.cat([weight.grad for weight in weights])


def close(found, expected):
    expected = torch.cat([torch.tensor(part) for part in expected])
    assert float((found - expected).abs().max() / expected.abs().max()) <= 1e-6


@pytest.mark.parametrize("projection", ["per-sample", "per-step"])
@pytest.mark.parametrize("name", VECTORS)
def test_every_permutation_gives_the_recorded_gradient(name, projection):
    for order, expected in VECTORS[name]["agp"].items():
        close(step_of(VECTORS[name], order, projection=projection), expected)
    close(step_of(VECTORS[name], "prd", combination="sum"), VECTORS[name]["plain_sum"])


def test_the_vectors_of_the_specification():
    b = VECTORS["B"]
    assert step_of(b, "prd").tolist() == pytest.approx([2.5405, -0.3797, -0.8411], abs=5e-5)
    assert step_of(b, "drp").tolist() == pytest.approx([2.7530, 0.2034, -0.1339], abs=5e-5)


A = {
    # By hand: the leader (1, 0), followers p (-1, 1) and d (0, 0.5).
    "gradients": {"ce": [[1.0, 0.0]], "p": [[-1.0, 1.0]], "d": [[0.0, 0.5]]},
    "weights": {"ce": 1, "p": 1, "d": 1},
    "pi": [1.0, 1.0, 1.0],
}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # p becomes (0, 1); the sums are (1, 1) and (1, 0.5), which do not contradict each other.
        ({}, [2.0, 1.5]),
        ({"stage_2": False}, [2.0, 1.5]),
        ({"ce_once": True}, [1.0, 1.5]),
        # The sums are (0, 1) and (1, 0.5).
        ({"stage_1": False}, [1.0, 1.5]),
        ({"stage_1": False, "stage_2": False, "ce_once": True}, [0.0, 1.5]),
    ],
)
def test_stages_can_be_left_out_and_the_answer_counted_once(options, expected):
    assert step_of(A, "pd", **options).tolist() == pytest.approx(expected)


def test_stage_2_alone():
    # The sums (0, 1) and (1, -3) contradict each other: by -3, whose squares are 1 and 10.
    vectors = {**A, "gradients": {"ce": [[1.0, 0.0]], "p": [[-1.0, 1.0]], "d": [[0.0, -3.0]]}}
    expected = torch.tensor([0.0, 1.0]) + 0.3 * torch.tensor([1.0, -3.0]) + torch.tensor([1.0, 0.0])
    assert step_of(vectors, "pd", stage_1=False).tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_without_followers_the_answer_s_gradient_is_left():
    gradients = [[torch.tensor([1.0, 2.0]), None]]
    found = projected(products(gradients), reaches(gradients), torch.tensor([0.5]).double(), [], **STAGES)
    assert found.tolist() == [[0.5], [0.0]]


def test_the_order_is_drawn_anew_for_every_sample_and_is_the_same_in_every_process():
    followers = list(SLOTS.values())
    orders = [
        tuple(drawn(one_sample(step, position, samples=4).rng(position), followers))
        for step in range(30)
        for position in range(4)
    ]
    assert len(set(orders)) == 6
    assert max(orders.count(order) for order in set(orders)) < 40  # of 120, 20 each on average
    assert orders[5] == tuple(drawn(one_sample(1, 1, samples=4).rng(1), followers))


@pytest.mark.parametrize("projection", ["per-sample", "per-step"])
def test_the_rule_draws_for_the_place_of_its_sample_or_for_the_step(projection):
    drawn_numbers = []
    rule = DriveKdRule(
        DriveKdConfig(projection=projection),
        build_losses(LOSSES, {"answer_ce": {}, "planning": {}}, Loss),
        order=lambda rng, followers: drawn_numbers.append(rng.random()) or followers,
    )
    weight = nn.Parameter(torch.ones(3))
    context = one_sample(step=4, position=2, samples=5)
    rule({"answer_ce": weight.sum(), "planning": -weight[0]}, [weight], lambda loss: loss, context)
    rule.end_step([weight], lambda value: value, context)
    rng = context.rng(2) if projection == "per-sample" else context.rng()
    assert drawn_numbers == [rng.random()]

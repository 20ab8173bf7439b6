"""Weights that follow the norms of gradients, against the authors' on given losses and norms."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from cache_schema.errors import RequestError
from student.drive_kd.config import DriveKdConfig
from student.drive_kd.gradnorm import Reweighting
from student.drive_kd.losses import LOSSES, Loss
from student.drive_kd.rule import DriveKdRule
from student.drive_kd.system import DriveKdSystem
from student.step import StepContext
from student.system import build_losses
from tests.student.drive_kd.recorded import SET, TERMS

VECTORS = {vectors["name"]: vectors for vectors in json.loads((SET / "reweight_vectors.json").read_text())}


def reweighting(vectors):
    static = {TERMS[term]: float(weight) for term, weight in vectors["static"].items()}
    return Reweighting(static, learning_rate=vectors["lr"], alpha=vectors["alpha"])


def means(micro, kind):
    """Return the mean of every term that occurred, over all micro-batches."""
    occurred = [term for term in TERMS if any(term in one[kind] for one in micro)]
    return {
        TERMS[term]: torch.tensor(sum(one[kind].get(term, 0.0) for one in micro) / len(micro))
        for term in occurred
    }


def check(weights, expected):
    assert weights == pytest.approx({TERMS[term]: weight for term, weight in expected.items()}, rel=1e-5)


@pytest.mark.parametrize("name", VECTORS)
def test_weights_are_the_recorded_ones(name):
    vectors = VECTORS[name]
    ours = reweighting(vectors)
    check(ours.weights(), vectors["weights_before"])
    for step in vectors["steps"]:
        ours.update(means(step["micro"], "losses"), means(step["micro"], "norms"))
        check(ours.weights(), step["weights_after"])


@pytest.mark.parametrize("name", VECTORS)
def test_its_state_is_all_that_it_remembers(name):
    vectors = VECTORS[name]
    whole, state = reweighting(vectors), {}
    for step in vectors["steps"]:
        resumed = reweighting(vectors)
        if state:
            resumed.load_state_dict(state)
        for ours in (whole, resumed):
            ours.update(means(step["micro"], "losses"), means(step["micro"], "norms"))
        assert resumed.weights() == whole.weights()
        state = {key: value.clone() for key, value in resumed.state_dict().items()}


def test_a_single_term_and_an_infinite_norm_leave_the_weights_as_they_are():
    ours = reweighting(VECTORS["plain"])
    before = ours.weights()
    ours.update({"answer_ce": torch.tensor(2.0)}, {"answer_ce": torch.tensor(1.0)})
    both = {"answer_ce": torch.tensor(2.0), "planning": torch.tensor(0.1)}
    ours.update(both, {**both, "planning": torch.tensor(torch.inf)})
    ours.update(both, {name: torch.tensor(0.0) for name in both})
    assert ours.weights() == before


def test_weights_that_its_inverse_would_overflow_are_refused():
    losses = {"answer_ce": {}, "planning": {"weight": 81}}
    with pytest.raises(RequestError, match=r"losses.planning.weight 81") as refused:
        DriveKdSystem({"weighting": "gradnorm"}, losses)
    assert "student.weighting=static" in refused.value.repair
    DriveKdSystem({"weighting": "static"}, losses)
    DriveKdSystem({"weighting": "gradnorm"}, {"answer_ce": {}, "planning": {"weight": 80}})


def test_a_sample_that_a_process_has_borrowed_counts_nothing():
    after = []
    for shares in ((1.0,), (1.0, 0.0)):
        losses = build_losses(LOSSES, {"answer_ce": {}, "planning": {}}, Loss)
        rule = DriveKdRule(DriveKdConfig(weighting="gradnorm", alpha=1.0, weight_learning_rate=0.1), losses)
        weight = nn.Parameter(torch.ones(2))
        context = StepContext(0, 0, samples=1, positions=np.array([0]), device=torch.device("cpu"))
        context.factors.update(answer_ce=1.0, planning=1.0)
        for step in range(2):  # of the first, all terms have fallen alike
            for share in shares:
                # Of what is borrowed, the second term has grown.
                grown = 1.0 if share else 1 + 5.0 * step
                terms = {"answer_ce": weight.sum() * (1 + step), "planning": weight[0] * grown}
                rule(terms, [weight], lambda loss, share=share: loss * share, context)
            rule.end_step([weight], lambda value: value, context)
        after.append(rule.weights)
    assert after[0]["planning"] != 1
    assert after[0] == after[1]

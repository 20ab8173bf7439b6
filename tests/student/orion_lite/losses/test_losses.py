import math

import pytest
import torch

from cache_schema.errors import RequestError
from student.orion_lite.losses import LOSSES, Loss
from student.orion_lite.losses.boundary import Boundary, crosses
from student.orion_lite.losses.collision import Collision
from student.orion_lite.losses.latent import Latent
from student.orion_lite.losses.mimic import Mimic
from student.orion_lite.losses.regression import Regression
from student.orion_lite.model import Prediction
from student.orion_lite.planner import Gaussian
from student.system import build_losses


def standing(frames=1, *, offset=(0.0, 0.0)):
    """Return a prediction whose every step is ``offset``, and whose two latents are equal."""
    offsets = torch.zeros(frames, 6, 6, 2) + torch.tensor(offset)
    normal = Gaussian(torch.zeros(frames, 1, 32), torch.zeros(frames, 1, 32))
    return Prediction(torch.zeros(frames, 8), offsets, normal, normal)


def ground_truth(frames=1):
    """Return a batch of an ego that stands still on an empty plain, every step valid."""
    return {
        "planning_token": torch.zeros(frames, 8),
        "ego_trajectory": torch.zeros(frames, 6, 2),
        "ego_trajectory_mask": torch.ones(frames, 6, dtype=torch.bool),
        "command": torch.full((frames,), 3),
        "lane_points": torch.zeros(frames, 2, 11, 2),
        "lane_logits": torch.full((frames, 2, 6), -5.0),
        "agent_xy": torch.zeros(frames, 2, 2),
        "agent_class_scores": torch.zeros(frames, 2, 9),
        "agent_offsets": torch.zeros(frames, 2, 6, 2),
    }


def test_one_metre_off_in_both_coordinates_costs_a_half():
    predicted = standing()._replace(offsets=torch.ones(1, 6, 6, 2))
    assert Regression()(predicted, ground_truth()).item() == pytest.approx(0.5)


def test_an_agent_beside_and_ahead_costs_one_and_a_half():
    batch = ground_truth()
    batch["agent_xy"][0, 0] = torch.tensor([0.5, 1.0])
    batch["agent_class_scores"][0, 0, 2] = 0.9
    assert Collision()(standing(), batch).item() == pytest.approx(1.5)


@pytest.mark.parametrize(("kind", "counts"), [(0, True), (4, True), (5, False), (7, False)])
def test_pedestrians_and_cones_do_not_count_as_agents(kind, counts):
    batch = ground_truth()
    batch["agent_class_scores"][0, :, kind] = 0.9
    assert (Collision()(standing(), batch).item() > 0) is counts


def test_the_classes_that_count_are_an_option():
    batch = ground_truth()
    batch["agent_xy"][0, 0] = torch.tensor([0.5, 1.0])
    batch["agent_class_scores"][0, 0, 7] = 0.9
    assert Collision()(standing(), batch).item() == 0.0
    assert Collision(classes=[0, 7])(standing(), batch).item() == pytest.approx(1.5)


def test_free_nats_are_the_least_that_a_dimension_costs_and_have_no_gradient():
    apart = torch.zeros(1, 1, 32)
    apart[..., :2] = 1.0  # half a nat each; the other 30 dimensions cost nothing
    apart.requires_grad_()
    predicted = standing()._replace(future=Gaussian(apart, torch.zeros(1, 1, 32)))
    term = Latent(weight=1.0, free_nats=0.1)(predicted, ground_truth())
    assert term.item() == pytest.approx(2 * 0.5 + 30 * 0.1)
    term.backward()
    assert apart.grad[0, 0].tolist() == pytest.approx([1.0, 1.0] + [0.0] * 30)


def test_latent_means_one_apart_cost_forty_eight():
    predicted = standing()
    apart = predicted._replace(future=Gaussian(torch.ones(1, 1, 32), torch.zeros(1, 1, 32)))
    assert Latent()(apart, ground_truth()).item() == pytest.approx(48.0)


@pytest.mark.parametrize(("distance_m", "penalty"), [(0.2, 0.8), (0.9, 0.1), (5.0, 0.0), (1e6, 0.0)])
def test_boundary_costs_what_is_missing_to_a_metre(distance_m, penalty):
    batch = ground_truth()
    batch["lane_points"][0, 0] = torch.stack([torch.full((11,), distance_m), torch.arange(11.0)], dim=1)
    batch["lane_logits"][0, 0, 2] = 0.6
    elements = Boundary().elements(standing(), batch)
    torch.testing.assert_close(elements, torch.full((1, 6), 3.0 * penalty))


def test_other_lane_classes_and_low_logits_are_no_boundary():
    batch = ground_truth()
    batch["lane_logits"][0, 0, 1] = 9.0
    batch["lane_logits"][0, 1, 2] = 0.4
    assert Boundary()(standing(), batch).item() == 0.0


@pytest.mark.parametrize("downwards", [False, True])
def test_a_crossing_ends_the_penalty_whichever_way_the_lane_runs(downwards):
    batch = ground_truth()
    along = torch.linspace(-5.0, 5.0, 11)
    if downwards:
        along = along.flip(0)
    batch["lane_points"][0, 0] = torch.stack([torch.full((11,), 0.5), along], dim=1)
    batch["lane_logits"][0, 0, 2] = 1.0
    # x = 0.2, 0.4, 0.6 (crosses 0.5), 0.8, ...: penalties 0.7 and 0.9, then none; times 3.
    elements = Boundary().elements(standing(offset=(0.2, 0.0)), batch)
    torch.testing.assert_close(elements, torch.tensor([[2.1, 2.7, 0.0, 0.0, 0.0, 0.0]]))


def test_parallel_segments_do_not_cross():
    lane = torch.tensor([[0.0, -1.0], [0.0, 1.0]]).expand(1, 1, 2, 2)
    assert not crosses(torch.tensor([[[0.0, 3.0]]]), lane).any()


def test_a_frame_without_ground_truth_costs_only_the_mimic():
    batch = ground_truth()
    batch["ego_trajectory_mask"][:] = False
    batch["lane_logits"][..., 2] = 1.0
    batch["agent_class_scores"][..., 0] = 0.9
    normal = torch.zeros(1, 1, 32)
    predicted = Prediction(
        torch.ones(1, 8), torch.ones(1, 6, 6, 2), Gaussian(normal, normal), Gaussian(normal + 1, normal)
    )
    terms = {
        name: term(predicted, batch).item()
        for name, term in build_losses(LOSSES, {kind: {} for kind in LOSSES}, Loss).items()
    }
    assert terms == {"mimic": 1.0, "regression": 0.0, "boundary": 0.0, "collision": 0.0, "latent": 0.0}


def test_mimic_distances_by_hand():
    predicted = standing(2)._replace(planning_token=torch.tensor([[0.0, 3.0], [0.5, 0.0]]))
    batch = {"planning_token": torch.zeros(2, 2)}
    assert Mimic()(predicted, batch).item() == pytest.approx(3.5 / 4)
    assert Mimic(distance="mse")(predicted, batch).item() == pytest.approx(9.25 / 4)
    assert Mimic(distance="huber")(predicted, batch).item() == pytest.approx((2.5 + 0.125) / 4)
    # Teacher (1/2, 1/2); student softmax of (0, ln 3) is (1/4, 3/4): KL = ln 2 - ln 3 / 2.
    student = torch.tensor([[0.0, math.log(3.0)]])
    divergence = Mimic(distance="kl")(
        predicted._replace(planning_token=student), {"planning_token": torch.zeros(1, 2)}
    )
    assert divergence.item() == pytest.approx(0.6931472 - 0.5493061, abs=1e-6)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"mimik": {}}, "did you mean 'mimic'"),
        ({"mimic": {"wieght": 1.0}}, "wieght"),
        ({"mimic": {"distance": "cosine"}}, r"losses\.mimic\.distance"),
        ({"json:dumps": {}}, "'json:dumps' is no term of this loss"),
    ],
)
def test_wrong_names_and_options_are_refused(chosen, message):
    with pytest.raises(RequestError, match=message):
        build_losses(LOSSES, chosen, Loss)


def test_a_loss_of_ones_own_is_taken_by_its_dotted_name():
    built = build_losses(LOSSES, {"student.orion_lite.losses.mimic:Mimic": {"weight": 2.0}}, Loss)
    assert built == {"student.orion_lite.losses.mimic:Mimic": Mimic(weight=2.0)}

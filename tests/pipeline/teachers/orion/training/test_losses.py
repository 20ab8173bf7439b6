"""Losses and measures of a teacher in training, against numbers worked out by hand."""

import math

import pytest
import torch

from cache_schema.vocabulary.orion import PLANNER_LATENT
from pipeline.teachers.orion.network.detection_head import DetectionOutput
from pipeline.teachers.orion.network.map_head import MapOutput
from pipeline.teachers.orion.training.losses import (
    BOX_WEIGHT,
    CLASS_WEIGHT,
    DIVERGENCE_WEIGHT,
    LANE_WEIGHT,
    PLAN_WEIGHT,
    detection_loss,
    focal,
    map_loss,
    planning_loss,
)
from pipeline.teachers.orion.training.measure import _Ranking
from pipeline.teachers.orion.training.planner import Planner


def test_focal_loss_of_an_undecided_logit():
    # Entropy log 2, missed by 1/2, squared; a quarter of it for a positive, three quarters for a negative.
    expected = torch.tensor([0.25, 0.75]) * 0.25 * math.log(2)
    torch.testing.assert_close(focal(torch.zeros(2), torch.tensor([1.0, 0.0])), expected)


def detection(boxes, logits):
    frames, queries = boxes.shape[:2]
    nothing = torch.zeros(frames, 0)
    futures = torch.zeros(frames, queries, 2, 6, 2)
    futures[:, :, 1, :, 0] = 1.0
    return DetectionOutput(nothing, nothing, nothing, boxes, logits, futures, torch.zeros(frames, queries, 2))


def truth_of(boxes, labels):
    futures = torch.zeros(*labels.shape, 6, 2)
    futures[..., 0] = 1.0
    mask = torch.ones(*labels.shape, 6, dtype=torch.bool)
    return {"boxes": boxes, "labels": labels, "futures": futures, "futures_mask": mask}


def test_objects_are_matched_to_the_nearest_boxes_whatever_their_order():
    agents = torch.zeros(1, 3, 10)
    agents[0, :, 0] = torch.tensor([4.0, -8.0, 0.0])  # the third place is empty
    boxes = agents[:, [1, 2, 0]].clone()
    boxes[0, 2, 0] += 0.5
    logits = torch.full((1, 3, 2), -20.0)
    logits[0, 0, 1] = logits[0, 2, 0] = 20.0
    losses = detection_loss(detection(boxes, logits), truth_of(agents, torch.tensor([[0, 1, -1]])))
    assert losses["boxes"].item() == pytest.approx(BOX_WEIGHT * 0.5 / 2)
    assert losses["objects"].item() == pytest.approx(0.0, abs=1e-6)
    # The second alternative is right; both are equally likely.
    assert losses["futures"].item() == pytest.approx(0.2 * 0.5 * math.log(2))
    logits[0, 1, 0] = 20.0  # a car where there is none: entropy 20, three quarters, over two matches
    losses = detection_loss(detection(boxes, logits), truth_of(agents, torch.tensor([[0, 1, -1]])))
    assert losses["objects"].item() == pytest.approx(CLASS_WEIGHT * 0.75 * 20 / 2)


def test_lanes_pay_for_the_mean_distance_of_their_points():
    lanes = torch.zeros(1, 1, 11, 3)
    points = torch.zeros(1, 2, 11, 3)
    points[0, 0, :, 1], points[0, 1, :, 1] = 2.0, 50.0
    losses = map_loss(
        MapOutput(torch.zeros(1, 0), points, torch.zeros(1, 2, 6)),
        {"lanes": lanes, "lane_labels": torch.tensor([[3]])},
    )
    assert losses["points"].item() == pytest.approx(LANE_WEIGHT * 2.0)


def constant_planner():
    """A planner that goes 1 m ahead a step on command 2, and stands still on all others."""
    planner = Planner(width=8)
    for weight in planner.parameters():
        weight.data.zero_()
    planner.ego_fut_decoder[4].bias.data[2 * 2 + 1] = 1.0
    latent = planner.future_distribution.last_conv[1].bias.data
    latent[:PLANNER_LATENT] = 1.0  # its mean; the present's is 0, and both have a variance of 1
    return planner


def test_only_the_commanded_plan_pays_and_only_for_steps_that_are_known():
    planner = constant_planner()
    mask = torch.tensor([[True, True, False, False, False, False]])
    truth = {"trajectory": torch.zeros(1, 6, 2), "trajectory_mask": mask, "command": torch.tensor([2])}
    losses = planning_loss(planner, torch.zeros(1, 8), truth, torch.Generator())
    assert losses["plan"].item() == pytest.approx(PLAN_WEIGHT * 1.0)
    # Two normal distributions of variance 1, 1 apart: half a nat for each dimension.
    assert losses["divergence"].item() == pytest.approx(DIVERGENCE_WEIGHT * 0.5 * PLANNER_LATENT)
    truth["command"] = torch.tensor([3])
    losses = planning_loss(planner, torch.zeros(1, 8), truth, torch.Generator())
    assert losses["plan"].item() == 0.0


def test_average_precision_of_a_ranking():
    ranking = _Ranking()
    # Two agents. The best detection finds one, the second finds the same again, the third the other.
    scores = torch.tensor([[0.9, 0.8, 0.7, -1.0]])
    distance = torch.tensor([[[0.5, 0.1, 9.0, 0.0], [9.0, 9.0, 1.0, 0.0]]])
    ranking.add(scores, distance, torch.tensor([[True, True]]))
    assert ranking.average_precision() == pytest.approx((1.0 + 2 / 3) / 2)
    ranking.add(scores[:, :0], distance[:, :, :0], torch.tensor([[True, True]]))  # two more, not found
    assert ranking.average_precision() == pytest.approx((1.0 + 2 / 3) / 4)

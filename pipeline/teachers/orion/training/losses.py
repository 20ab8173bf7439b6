"""What the teacher is trained on: objects and their futures, lanes, and the plan.

Objects and lanes are matched to the truth by least cost, as DETR does (arXiv:2005.12872).

Dimension letters: N frames, Q queries, A agents, L lanes, P points of a lane, M matches, F alternative
futures, T steps of 0.5 s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pipeline.teachers.orion.training.planner import commanded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.teachers.orion.network.detection_head import DetectionOutput
    from pipeline.teachers.orion.network.map_head import MapOutput
    from pipeline.teachers.orion.training.planner import Planner

FOCUS, POSITIVE = 2.0, 0.25
"""Gamma and alpha of the focal loss (arXiv:1708.02002)."""
CLASS_WEIGHT, BOX_WEIGHT, FUTURE_WEIGHT = 2.0, 0.25, 0.2
LANE_WEIGHT = 0.2
"""Of a lane's mean distance in metres."""
PLAN_WEIGHT, DIVERGENCE_WEIGHT = 2.0, 0.01
LOG_SIZE_WEIGHT = 4.0
"""Of the numbers of a box that are no metres: logarithms of sizes, sine and cosine of the yaw."""
VELOCITY_WEIGHT = 0.2

BOX_WEIGHTS = (
    *(1.0, 1.0, LOG_SIZE_WEIGHT, LOG_SIZE_WEIGHT, 1.0, LOG_SIZE_WEIGHT),
    *(LOG_SIZE_WEIGHT, LOG_SIZE_WEIGHT, VELOCITY_WEIGHT, VELOCITY_WEIGHT),
)


class Matches(NamedTuple):
    """Which query stands for what, in N frames."""

    frame: Tensor
    """(M)."""
    query: Tensor
    """(M)."""
    truth: Tensor
    """(M) place among the frame's agents or lanes."""


def focal(logits: Tensor, positive: Tensor) -> Tensor:
    """Return the focal loss of each logit; ``positive`` is 1 or 0."""
    entropy = F.binary_cross_entropy_with_logits(logits, positive, reduction="none")
    missed = (positive - logits.sigmoid()).abs()
    return entropy * missed**FOCUS * torch.where(positive > 0, POSITIVE, 1 - POSITIVE)


@torch.no_grad()
def match(logits: Tensor, distance: Tensor, labels: Tensor) -> Matches:
    """Match queries to agents or lanes.

    Args:
        logits: (N, Q, classes).
        distance: (N, A, Q), weighted as in the loss.
        labels: (N, A), -1 where there is none.
    """
    gain = CLASS_WEIGHT * (focal(logits, torch.zeros_like(logits)) - focal(logits, torch.ones_like(logits)))
    classes = labels.clamp(min=0)[..., None].expand(-1, -1, logits.shape[1])  # (N, A, Q)
    cost = (distance - gain.transpose(1, 2).gather(1, classes)).nan_to_num(1e6).double().numpy()
    frames, truth = (labels >= 0).nonzero(as_tuple=True)
    present = (labels >= 0).numpy()
    queries = [torch.from_numpy(linear_sum_assignment(cost[n][present[n]])[1]) for n in range(len(labels))]
    return Matches(frames, torch.cat(queries), truth)


def classification(logits: Tensor, labels: Tensor, matches: Matches) -> Tensor:
    """Return the focal loss of logits (N, Q, classes), by the number of matches with labels (N, A)."""
    positive = torch.zeros_like(logits)
    positive[matches.frame, matches.query, labels[matches.frame, matches.truth]] = 1.0
    return focal(logits, positive).sum() / max(len(matches.frame), 1)


def detection_loss(output: DetectionOutput, truth: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the losses of N frames' objects: classes, boxes, and futures."""
    weights = torch.tensor(BOX_WEIGHTS)
    distance = (truth["boxes"][:, :, None] - output.boxes[:, None]).abs() @ weights  # (N, A, Q)
    matches = match(output.class_logits, BOX_WEIGHT * distance, truth["labels"])
    frame, query, agent = matches
    error = (output.boxes[frame, query] - truth["boxes"][frame, agent]).abs() @ weights
    known = truth["futures_mask"][frame, agent]  # (M, T)
    futures = output.futures[frame, query]  # (M, F, T, 2)
    missed = (futures - truth["futures"][frame, agent][:, None]).norm(dim=-1) * known[:, None]
    missed = missed.sum(dim=-1) / known.sum(dim=-1, keepdim=True).clamp(min=1)  # (M, F)
    best = missed.argmin(dim=-1)
    chosen = F.cross_entropy(output.future_logits[frame, query], best)
    return {
        "objects": CLASS_WEIGHT * classification(output.class_logits, truth["labels"], matches),
        "boxes": BOX_WEIGHT * error.mean(),
        "futures": FUTURE_WEIGHT * (missed.gather(1, best[:, None]).mean() + 0.5 * chosen),
    }


def map_loss(output: MapOutput, truth: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the losses of N frames' lanes: classes and points."""
    points, lanes = output.points.flatten(2), truth["lanes"].flatten(2)  # (N, Q, 3 P), (N, L, 3 P)
    scale = LANE_WEIGHT * 3 / points.shape[-1]
    matches = match(output.class_logits, scale * torch.cdist(lanes, points, p=1), truth["lane_labels"])
    frame, query, lane = matches
    error = (points[frame, query] - lanes[frame, lane]).abs().sum(dim=-1)
    return {
        "lanes": CLASS_WEIGHT * classification(output.class_logits, truth["lane_labels"], matches),
        "points": scale * error.mean(),
    }


def planning_loss(
    planner: Planner, token: Tensor, truth: Mapping[str, Tensor], generator: torch.Generator
) -> dict[str, Tensor]:
    """Return the losses of N planning tokens: mean error of the commanded offsets, and the divergence."""
    present, future = planner.present(token), planner.future(token, truth["trajectory"])
    noise = torch.randn(present.mu.shape, generator=generator)
    offsets = planner(token, present.mu + present.log_sigma.exp() * noise)
    error = (commanded(offsets, truth["command"]) - truth["trajectory"]).abs().sum(dim=-1)  # (N, T)
    known = truth["trajectory_mask"]
    return {
        "plan": PLAN_WEIGHT * (error * known).sum() / known.sum(),
        "divergence": DIVERGENCE_WEIGHT * future.divergence(present).mean(),
    }

"""Other vehicles: which of the predicted boxes stand for one, and where (spec LatentVLA 4).

Dimension letters: B batch, A predicted box, G agent of the ground truth, M match.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment

from cache_schema.vocabulary.driving import VEHICLES
from student.latentvla.ego_frame import boxes_to_ego
from student.latentvla.planner.latent_transfuser import BOX_RANGE_M
from student.latentvla.prediction import Loss, Prediction

if TYPE_CHECKING:
    from torch import Tensor

    from student.latentvla.planner.latent_transfuser import Plan
    from student.loading.batches import Batch

WIDEST_RAD = math.radians(80)
"""Agents farther to the side than 80 degrees are not seen by the cameras."""


class Agents(Loss):
    """Binary cross-entropy of the boxes' logits, and the absolute error of those that are matched.

    The boxes of least cost are matched to the ground truth, the nearest vehicles in sight within 32 m. The
    cost is the loss itself.
    """

    required_features: ClassVar[tuple[str, ...]] = ("truth_agent_boxes", "truth_agent_classes")

    class_weight: float = 10.0
    """Factor of the cross-entropy, a mean over all boxes."""
    box_weight: float = 1.0
    """Factor of the errors, summed over x, y, heading, length and width: a mean over the matched boxes of the
    batch."""
    classes: tuple[int, ...] = VEHICLES
    """Class numbers of agents that count; the default is car, van and truck."""

    def __call__(self, predicted: Prediction, batch: Batch) -> Tensor:
        """See ``Loss``."""
        boxes = boxes_to_ego(batch["truth_agent_boxes"])  # (B, G, 5)
        kind = batch["truth_agent_classes"]  # (B, G)
        counts = torch.stack([kind == number for number in self.classes]).any(dim=0)
        counts &= boxes[..., :2].abs().amax(dim=-1) <= BOX_RANGE_M
        error, entropy = box_losses(
            predicted.plan, boxes, counts, class_weight=self.class_weight, box_weight=self.box_weight
        )
        return self.weight * (self.class_weight * entropy + self.box_weight * error)


def box_losses(
    plan: Plan, boxes: Tensor, counts: Tensor, *, class_weight: float, box_weight: float
) -> tuple[Tensor, Tensor]:
    """Match boxes to agents; return the mean error of those that are matched, and the mean cross-entropy.

    Args:
        plan: Of B frames, with A boxes.
        boxes: (B, G, 5) agents in the ego's coordinates, the nearest first.
        counts: (B, G) bool, rows that hold an agent that counts. Of these, those out of sight are left out,
            and the farthest where there are more than boxes.
        class_weight: Of the cross-entropy, and
        box_weight: of the error, in the cost of a match.

    Returns:
        (), () without weights.
    """
    places, most = plan.boxes, plan.boxes.shape[1]
    counts = counts & (torch.atan2(boxes[..., 1], boxes[..., 0]).abs() <= WIDEST_RAD)
    counts = counts & (counts.cumsum(dim=1) <= most)
    with torch.no_grad():
        error = (boxes[:, :, None] - places[:, None]).abs().sum(dim=-1)  # (B, G, A)
        # The logit is what a match changes in the cross-entropy.
        cost = (box_weight * error - class_weight * plan.box_logits[:, None]).float().cpu()
        cost = cost.nan_to_num()  # the step's losses say that they are not finite
    agents = counts.cpu()
    rows = [torch.full((int(own.sum()),), frame) for frame, own in enumerate(agents)]
    columns = [
        torch.from_numpy(linear_sum_assignment(of[own].numpy())[1])
        for of, own in zip(cost, agents, strict=True)
    ]
    frame, column = (torch.cat(pieces).to(places.device) for pieces in (rows, columns))  # (M)
    matched = F.l1_loss(places[frame, column], boxes[counts], reduction="sum") / max(len(frame), 1)
    present = torch.zeros_like(plan.box_logits)
    present[frame, column] = 1.0
    return matched, F.binary_cross_entropy_with_logits(plan.box_logits, present)

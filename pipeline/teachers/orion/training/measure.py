"""How well a teacher knows held-out clips: its plan against simple ones, and the vehicles and lanes it finds.

Dimension letters: C clips, K frames of a clip, N = K C frames, T steps of 0.5 s, Q queries, M measures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from cache_schema.vocabulary.driving import SPEED, TRAJECTORY_STEPS, VEHICLES
from pipeline.teachers.orion.training.planner import commanded
from pipeline.teachers.orion.training.unroll import in_order, unroll

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.teachers.orion.images import ImagePreprocessing
    from pipeline.teachers.orion.network.config import OrionConfig
    from pipeline.teachers.orion.network.model import Orion
    from pipeline.teachers.orion.training.planner import Planner
    from pipeline.teachers.orion.training.unroll import Windows

RESAMPLES, SEED, CONFIDENCE = 1000, 0, 0.95
"""Of the percentile bootstrap over whole clips."""
NEAR_M = 30.0
"""Vehicles within this distance of the LiDAR count."""
FOUND_M = 2.0
"""A detection, or a lane by the mean distance of its points, is right within this distance."""
CLIPS_AT_ONCE = 6


class HeldOut(BaseModel):
    """Figures of held-out clips; L2 in metres, a mean over all steps up to 3 s."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    clips: int
    frames: int
    l2: float
    l2_constant_velocity: float
    l2_standing_still: float
    ratio: float
    """Of the teacher's L2 to constant velocity's."""
    ratio_interval: tuple[float, float]
    """95 %, by the bootstrap over clips."""
    vehicle_precision: float
    """Average precision of vehicles within 30 m, at 2 m."""
    lane_precision: float
    """Average precision of lanes of the right class, at a mean distance of 2 m."""


@torch.no_grad()
def measure(
    model: Orion, planner: Planner, config: OrionConfig, images: ImagePreprocessing, clips: Windows
) -> HeldOut:
    """Run a teacher over whole held-out clips, frame by frame.

    Args:
        model: The teacher.
        planner: Its planner, which takes the mean of its latent.
        config: Sizes.
        images: How images are prepared.
        clips: (C, K, *shape) of every name of ``examples``.
    """
    errors, vehicles, lanes = [], _Ranking(), _Ranking()
    count, length = clips["command"].shape
    for begin in range(0, count, CLIPS_AT_ONCE):
        some = {name: values[begin : begin + CLIPS_AT_ONCE] for name, values in clips.items()}
        output, truth = unroll(model, config, images, some), in_order(some)
        token = output.planning_token
        offsets = commanded(planner(token, planner.present(token).mu), truth["command"])
        errors.append(_errors(offsets, truth).unflatten(0, (length, -1)).transpose(0, 1))  # (C, K, M)
        vehicles.add(*_vehicles(output.detection.boxes, output.detection.class_logits, truth))
        lanes.add(*_lanes(output.road_map.points, output.road_map.class_logits, truth))
    per_clip = torch.cat(errors).mean(dim=1).numpy()  # (C, M): all clips have as many frames
    own, velocity, still = per_clip.mean(axis=0).tolist()
    return HeldOut(
        clips=count,
        frames=count * length,
        l2=own,
        l2_constant_velocity=velocity,
        l2_standing_still=still,
        ratio=own / velocity,
        ratio_interval=_ratio_interval(per_clip),
        vehicle_precision=vehicles.average_precision(),
        lane_precision=lanes.average_precision(),
    )


def _errors(offsets: Tensor, truth: Windows) -> Tensor:
    """Return (N, 3): mean distance of the plan (N, T, 2), of constant velocity, and of standing still."""
    expert = truth["trajectory"].cumsum(dim=1)
    ahead = truth["can_bus"][:, SPEED, None].float() * 0.5 * torch.arange(1, TRAJECTORY_STEPS + 1)
    plans = (
        offsets.cumsum(dim=1),
        torch.stack((torch.zeros_like(ahead), ahead), dim=-1),
        torch.zeros_like(expert),
    )
    return torch.stack([(plan - expert).norm(dim=-1).mean(dim=1) for plan in plans], dim=-1)


def _ratio_interval(per_clip: np.ndarray) -> tuple[float, float]:
    clips = len(per_clip)
    draws = np.random.default_rng(SEED).multinomial(clips, np.full(clips, 1 / clips), RESAMPLES)
    sums = draws @ per_clip  # (resamples, M)
    low, high = np.percentile(
        sums[:, 0] / sums[:, 1], (50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE))
    ).tolist()
    return low, high


def _vehicles(boxes: Tensor, logits: Tensor, truth: Windows) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores (N, Q), distances (N, A, Q), and which agents count (N, A), of vehicles near the ego."""
    places, agents = boxes[..., :2], truth["boxes"][..., :2]
    scores = logits[..., list(VEHICLES)].amax(dim=-1).sigmoid()
    scores = scores.where(places.norm(dim=-1) < NEAR_M, -1.0)
    counted = torch.isin(truth["labels"], torch.tensor(VEHICLES)) & (agents.norm(dim=-1) < NEAR_M)
    return scores, torch.cdist(agents, places), counted


def _lanes(points: Tensor, logits: Tensor, truth: Windows) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores (N, Q), distances (N, L, Q), and which lanes count (N, L)."""
    apart = (truth["lanes"][:, :, None] - points[:, None]).norm(dim=-1).mean(dim=-1)  # (N, L, Q)
    best = logits.argmax(dim=-1)
    right = truth["lane_labels"][:, :, None] == best[:, None]
    counted = torch.ones_like(truth["lane_labels"], dtype=torch.bool)
    return logits.amax(dim=-1).sigmoid(), apart.where(right, torch.inf), counted


class _Ranking:
    """Detections of all frames by their scores."""

    def __init__(self) -> None:
        self.scores: list[float] = []
        self.right: list[bool] = []
        self.wanted = 0

    def add(self, scores: Tensor, distance: Tensor, counted: Tensor) -> None:
        """Add N frames' detections (N, Q), by their distances (N, A, Q) to what counts (N, A).

        The best detections choose first. Those with a negative score do not take part.
        """
        self.wanted += int(counted.sum())
        distance = distance.masked_fill(~counted[..., None], torch.inf)
        for score, away in zip(scores, distance.clone(), strict=True):
            for query in score.argsort(descending=True).tolist():
                if score[query] < 0:
                    break
                nearest = int(away[:, query].argmin())
                found = bool(away[nearest, query] < FOUND_M)
                if found:
                    away[nearest] = torch.inf
                self.scores.append(float(score[query]))
                self.right.append(found)

    def average_precision(self) -> float:
        """Return the area under the precision, made monotone, over recall."""
        if not self.wanted or not self.scores:
            return 0.0
        right = np.array(self.right)[np.argsort(-np.array(self.scores), kind="stable")]
        precision = right.cumsum() / np.arange(1, len(right) + 1)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        return float((precision * right).sum() / self.wanted)

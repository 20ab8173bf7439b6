"""The other road users as ground truth, for collision metrics (spec: Bench2Drive, sections 3.7, 5.1).

Boxes and futures are those that the published metrics read, padded to a fixed number of agents.

Dimension letters: F frames of a clip, A agents, T steps of 0.5 s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cache_schema.vocabulary.driving import AGENTS, GROUND_TRUTH_AGENTS, HUMANS, NO_AGENT, VEHICLES
from pipeline.bench2drive.ground_truth.agent_futures import agent_futures
from pipeline.bench2drive.ground_truth.boxes import frame_boxes, seen_boxes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.bench2drive.annotations import Annotation
    from pipeline.bench2drive.ground_truth.boxes import Boxes

LABELS = (*VEHICLES, *HUMANS)


def road_users(annotation: Annotation) -> Boxes:
    """Return the vehicles and people that some camera may see.

    Raises:
        ClipError: An actor lacks a key.
    """
    return seen_boxes(frame_boxes(annotation, LABELS), annotation)


def agent_features(clip: Sequence[Boxes], world2lidar: np.ndarray) -> dict[str, np.ndarray]:
    """Return (F, *shape) of every feature of ``cache_schema.vocabulary.driving.GROUND_TRUTH_AGENTS``.

    Args:
        clip: The ``road_users`` of each of F frames.
        world2lidar: (F, 4, 4) RH world to LiDAR.
    """
    values = {spec.name: np.zeros((len(clip), *spec.fixed_shape), spec.dtype) for spec in GROUND_TRUTH_AGENTS}
    values["truth_agent_classes"][:] = NO_AGENT
    for frame, boxes in enumerate(clip):
        counted = boxes.for_planning()
        values["truth_agent_count"][frame] = len(counted)
        nearest = np.argsort(np.hypot(*counted.centre[:, :2].T), kind="stable")[:AGENTS]
        agents = counted.take(nearest)
        futures = agent_futures(agents, clip, frame, world2lidar[frame])
        rows = slice(len(agents))
        width, length, _ = agents.size.T
        values["truth_agent_boxes"][frame, rows] = np.column_stack(
            [agents.centre[:, :2], length, width, agents.yaw]
        )
        values["truth_agent_classes"][frame, rows] = agents.label
        values["truth_agent_offsets"][frame, rows] = np.concatenate(
            [futures.offsets, futures.yaw_offsets[..., None]], axis=-1
        )
        values["truth_agent_offsets_mask"][frame, rows] = futures.mask
    return values

"""Future tracks of the other actors (spec: Bench2Drive, section 3.7).

Dimension letters: K boxes of the present frame, T = 6 steps of 0.5 s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cache_schema.vocabulary.driving import TRAJECTORY_STEPS
from pipeline.bench2drive.geometry import heading
from pipeline.bench2drive.ground_truth.trajectories import FRAMES_PER_STEP

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.bench2drive.ground_truth.boxes import Boxes


@dataclass(frozen=True, eq=False)
class AgentFutures:
    """Futures of the K boxes of one frame, in that frame's LiDAR axes."""

    offsets: np.ndarray
    """(K, T, 2) metres from step to step; 0 where masked. A step out of a gap starts from (0, 0)."""
    mask: np.ndarray
    """(K, T) bool, True where the actor is annotated at the end of the step."""
    yaw_offsets: np.ndarray
    """(K, T) radians from step to step, in [-pi, pi]. Not masked: a missing actor's yaw counts as 0."""


def agent_futures(boxes: Boxes, clip: Sequence[Boxes], index: int, world2lidar: np.ndarray) -> AgentFutures:
    """Follow the actors of one frame through the clip's later frames.

    Args:
        boxes: K boxes of the present frame, or those of them that are of interest.
        clip: The boxes of every frame of the clip.
        index: The present frame.
        world2lidar: (4, 4) RH world to the present frame's LiDAR.
    """
    positions = np.zeros((len(boxes), TRAJECTORY_STEPS + 1, 2))
    yaws = np.zeros(positions.shape[:2])
    present = np.zeros(positions.shape[:2], dtype=bool)
    for step, frame in enumerate(clip[index::FRAMES_PER_STEP][: TRAJECTORY_STEPS + 1]):
        now, then = np.nonzero(boxes.id[:, None] == frame.id)
        poses = world2lidar @ frame.actor2world[then]
        positions[now, step], yaws[now, step], present[now, step] = poses[:, :2, 3], heading(poses), True
    mask = present[:, 1:]
    turns = np.diff(yaws, axis=1)
    return AgentFutures(
        offsets=np.where(mask[..., None], np.diff(positions, axis=1), 0.0),
        mask=mask,
        yaw_offsets=np.where(np.abs(turns) > math.pi, turns - np.copysign(2 * math.pi, turns), turns),
    )

"""The future track of the ego: the planning target (spec: Bench2Drive, section 3.6).

Dimension letters: F frames of a clip, T steps of 0.5 s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cache_schema.vocabulary.driving import TRAJECTORY_STEPS
from pipeline.bench2drive.geometry import rigid_inverse

if TYPE_CHECKING:
    from collections.abc import Sequence

FRAMES_PER_STEP = 5
"""0.5 s at 10 Hz."""


def relative_positions(ego_pose: np.ndarray, steps: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return where the LiDAR was and will be, in the LiDAR frame of every frame.

    Args:
        ego_pose: (F, 4, 4) LiDAR to world.
        steps: T numbers of steps, negative for the past.

    Returns:
        (F, T, 2) metres, LiDAR frame, 0 outside the clip; and (F, T) bool, True inside the clip.
    """
    frames = np.arange(len(ego_pose))
    other = frames[:, None] + FRAMES_PER_STEP * np.asarray(steps)  # (F, T)
    inside = (other >= 0) & (other < len(frames))
    origins = ego_pose[np.where(inside, other, 0), :3, 3]  # (F, T, 3)
    world2lidar = rigid_inverse(ego_pose)
    positions = np.einsum("fij,ftj->fti", world2lidar[:, :2, :3], origins) + world2lidar[:, None, :2, 3]
    return np.where(inside[..., None], positions, 0.0), inside


def ego_trajectories(ego_pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the planning target of every frame of a clip.

    Args:
        ego_pose: (F, 4, 4) float64, LiDAR to world, 0.1 s apart.

    Returns:
        (F, 6, 2) float32 offsets from step to step in metres, LiDAR frame, 0 where masked; and (F, 6) bool,
        True wherever the clip has the frame at the end of the step.
    """
    positions, inside = relative_positions(ego_pose, range(TRAJECTORY_STEPS + 1))
    valid = inside[:, 1:]
    offsets = np.where(valid[..., None], np.diff(positions, axis=1), 0.0)
    return offsets.astype(np.float32), valid

"""What a driving policy may see at one tick: no ground truth, nothing of the future.

Dimension letters: C cameras.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np


@dataclass(frozen=True, eq=False)
class Observation:
    """Camera images as they were compressed, and where the vehicle is. Matrices are float64."""

    clip: str
    """Of the drive, or the clip that is replayed: the memory of a slot is cleared when it changes."""
    jpegs: Mapping[str, bytes]
    """Camera -> its image of 1600x900 as a JPEG, in the order of every (C, ...) array."""
    lidar2cam: np.ndarray
    """(C, 4, 4) LiDAR to optical cameras."""
    intrinsic: np.ndarray
    """(C, 3, 3) of the images."""
    ego_pose: np.ndarray
    """(4, 4) LiDAR to right-handed world."""
    ego_pose_inv: np.ndarray
    """(4, 4) right-handed world to LiDAR."""
    timestamp_s: float
    """Seconds since the beginning of the drive."""
    command: int
    """Index into ``cache_schema.vocabulary.driving.COMMANDS``."""
    can_bus: np.ndarray
    """(18), as the annotations of Bench2Drive have it."""

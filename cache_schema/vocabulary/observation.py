"""What a driving policy may see at one tick: no ground truth, nothing of the future.

Dimension letters: C cameras.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cache_schema.errors import RequestError
from cache_schema.vocabulary.driving import CAN_BUS, COMMAND, COMMANDS

if TYPE_CHECKING:
    from collections.abc import Mapping

OBSERVED = {COMMAND: "command", CAN_BUS: "can_bus", "timestamp": "timestamp_s", "ego_pose": "ego_pose"}
"""Feature of driving datasets -> the field of an observation that holds it."""


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

    def check(self) -> None:
        """Check the shapes of all arrays, that all numbers are finite, and that there is such a command.

        Raises:
            RequestError: Something does not fit. Beside other observations in a batch, it would break theirs.
        """
        cameras = len(self.jpegs)
        shapes = {
            "lidar2cam": (cameras, 4, 4),
            "intrinsic": (cameras, 3, 3),
            "ego_pose": (4, 4),
            "ego_pose_inv": (4, 4),
            "can_bus": (18,),
            "timestamp_s": (),
        }
        faults = []
        for name, shape in shapes.items():
            value = np.asarray(getattr(self, name))
            if value.shape != shape:
                faults.append(f"{name} has the shape {value.shape}, not {shape}")
            elif not np.isfinite(value).all():
                faults.append(f"{name} is not finite")
        if self.command not in range(len(COMMANDS)):
            faults.append(f"there is no command {self.command}")
        if faults:
            raise RequestError(
                f"an observation of {self.clip!r} cannot be planned from: {'; '.join(faults)}",
                expected="what the fields of cache_schema.vocabulary.observation:Observation say",
                repair="correct what makes the observation",
            )

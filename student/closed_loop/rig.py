"""The cameras of the closed loop, as ORION's agent has them.

Dimension letters: C = 6 cameras.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cache_schema.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

LIDAR_TO_EGO = np.array([[0.0, 1, 0, -0.39], [-1, 0, 0, 0], [0, 0, 1, 1.84], [0, 0, 0, 1]])
"""LiDAR to right-handed ego axes, x forward and y left."""
ANTENNA_BEHIND_M = 1.4
"""GNSS and IMU sit so far behind the ego's origin."""


class Rig(NamedTuple):
    """Cameras that a policy sees. Matrices are float64."""

    cameras: tuple[str, ...]
    """Names, in the order of every (C, ...) array."""
    lidar2cam: np.ndarray
    """(C, 4, 4) LiDAR to optical cameras."""
    intrinsic: np.ndarray
    """(C, 3, 3) of the images of 1600x900."""

    def check(self, cameras: Sequence[str]) -> None:
        """Compare the cameras that send images with the rig's.

        Raises:
            RequestError: They are others, or come in another order.
        """
        if tuple(cameras) != self.cameras:
            raise RequestError(
                f"the agent sends images of {', '.join(cameras) or 'no camera'}",
                expected=f"{', '.join(self.cameras)}, in this order",
                repair="write the agent file again with this version of teachonce",
            )


_LIDAR2CAM = {
    "CAM_FRONT": [[1, 0, 0, 0], [0, 0, -1, -0.24], [0, 1, 0, -1.19]],
    "CAM_FRONT_LEFT": [
        [0.57357644, 0.81915204, 0, -0.22517331],
        [0, 0, -1, -0.24],
        [-0.81915204, 0.57357644, 0, -0.82909407],
    ],
    "CAM_FRONT_RIGHT": [
        [0.57357644, -0.81915204, 0, 0.22517331],
        [0, 0, -1, -0.24],
        [0.81915204, 0.57357644, 0, -0.82909407],
    ],
    "CAM_BACK": [[-1, 0, 0, 0], [0, 0, -1, -0.24], [0, -1, 0, -1.61]],
    "CAM_BACK_LEFT": [
        [-0.34202014, 0.93969262, 0, -0.25388956],
        [0, 0, -1, -0.24],
        [-0.93969262, -0.34202014, 0, -0.49288953],
    ],
    "CAM_BACK_RIGHT": [
        [-0.34202014, -0.93969262, 0, 0.25388956],
        [0, 0, -1, -0.24],
        [0.93969262, -0.34202014, 0, -0.49288953],
    ],
}
"""Upper three rows, with the digits that the agent has."""
_LIDAR2IMG = {
    "CAM_FRONT": [[1142.51841, 800, 0, -952], [0, 450, -1142.51841, -809.704417], [0, 1, 0, -1.19]],
    "CAM_FRONT_LEFT": [
        [0, 1394.75744, 0, -920.539908],
        [-368.61842, 258.109396, -1142.51841, -647.29675],
        [-0.819152044, 0.573576436, 0, -0.829094072],
    ],
    "CAM_FRONT_RIGHT": [
        [1310.64327, -477.035138, 0, -406.010608],
        [368.61842, 258.109396, -1142.51841, -647.29675],
        [0.819152044, 0.573576436, 0, -0.829094072],
    ],
    "CAM_BACK": [[-560.166031, -800, 0, -1288], [0, -450, -560.166031, -858.939847], [0, -1, 0, -1.61]],
    "CAM_BACK_LEFT": [
        [-1142.51841, 800, 0, -684.385123],
        [-422.861679, -153.909064, -1142.51841, -496.004706],
        [-0.939692621, -0.342020143, 0, -0.492889531],
    ],
    "CAM_BACK_RIGHT": [
        [360.989788, -1347.23223, 0, -104.238127],
        [422.861679, -153.909064, -1142.51841, -496.004706],
        [0.939692621, -0.342020143, 0, -0.492889531],
    ],
}
"""Upper three rows: intrinsics times the matrix above, but rounded apart from it."""


def _agents_rig() -> Rig:
    last_row = np.broadcast_to([[0.0, 0, 0, 1]], (len(_LIDAR2CAM), 1, 4))
    lidar2cam = np.concatenate([np.array(list(_LIDAR2CAM.values()), dtype=np.float64), last_row], axis=1)
    # The agent divides its two tables, so that their roundings get into the intrinsics.
    intrinsic = np.array(list(_LIDAR2IMG.values())) @ np.linalg.inv(lidar2cam)
    return Rig(tuple(_LIDAR2CAM), lidar2cam, intrinsic[:, :, :3])


RIG = _agents_rig()
"""The six cameras of Bench2Drive."""

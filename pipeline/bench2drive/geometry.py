"""Frames, constant matrices and the camera rig of Bench2Drive (spec: Bench2Drive, sections 0 and 1.3).

Four frames of axes. *UE world* and *UE ego* are CARLA's: left-handed, x forward, y right, z up. *RH* is the
same with y negated. *LiDAR* is right-handed, x right, y forward, z up, with its origin at the roof sensor:
every trajectory and box is given in it. *Optical* cameras look along z, with x right and y down.

Matrices are float64 (..., 4, 4) and named ``a2b``: they take points of frame a to frame b. Metres, degrees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

IMAGE_WIDTH, IMAGE_HEIGHT = 1600, 900

S = np.diag([1.0, -1.0, 1.0, 1.0])
"""UE to RH axes and back."""
A = np.array([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
"""Optical to UE camera axes."""
B = np.array([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
"""LiDAR to RH ego axes."""
C = np.array([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
"""UE ego to LiDAR axes."""


@dataclass(frozen=True)
class Mount:
    """Where a sensor sits on the ego vehicle, in UE ego axes."""

    location: tuple[float, float, float]
    """Metres: x forward, y right, z up."""
    yaw: float = 0.0
    """Degrees, clockwise seen from above."""
    pitch: float = 0.0
    """Degrees, nose up."""
    fov: float | None = None
    """Horizontal field of view in degrees, for cameras and radars."""

    @property
    def sensor2ego(self) -> np.ndarray:
        """(4, 4) UE sensor axes to UE ego axes."""
        return pose_matrix(self.location, (self.pitch, 0.0, self.yaw))

    @property
    def intrinsic(self) -> np.ndarray:
        """(3, 3) of a camera's 1600x900 image."""
        assert self.fov is not None, "only cameras have intrinsics"
        return pinhole(self.fov)


CAMERAS = {
    "CAM_FRONT": Mount((0.80, 0.0, 1.60), fov=70),
    "CAM_FRONT_LEFT": Mount((0.27, -0.55, 1.60), yaw=-55, fov=70),
    "CAM_FRONT_RIGHT": Mount((0.27, 0.55, 1.60), yaw=55, fov=70),
    "CAM_BACK": Mount((-2.0, 0.0, 1.60), yaw=180, fov=110),
    "CAM_BACK_LEFT": Mount((-0.32, -0.55, 1.60), yaw=-110, fov=70),
    "CAM_BACK_RIGHT": Mount((-0.32, 0.55, 1.60), yaw=110, fov=70),
}
"""The six cameras, in the order of every (6, ...) array."""

LIDAR_TOP = Mount((-0.39, 0.0, 1.84))


def pose_matrix(location: ArrayLike, rotation: ArrayLike) -> np.ndarray:
    """Return CARLA's local-to-world matrix (4, 4) of an actor or sensor.

    Args:
        location: x, y, z in metres, UE world.
        rotation: Pitch, roll, yaw in degrees, in this order.
    """
    (cp, cr, cy), (sp, sr, sy) = np.cos(np.radians(rotation)), np.sin(np.radians(rotation))
    x, y, z = np.asarray(location)
    return np.array(
        [
            [cp * cy, cy * sp * sr - sy * cr, -cy * sp * cr - sy * sr, x],
            [sy * cp, sy * sp * sr + cy * cr, -sy * sp * cr + cy * sr, y],
            [sp, -cp * sr, cp * cr, z],
            [0.0, 0.0, 0.0, 1.0],
        ]
    )


def rigid_inverse(matrix: np.ndarray) -> np.ndarray:
    """Invert rotation-and-translation matrices (..., 4, 4) by transposing the rotation."""
    inverse = np.zeros_like(matrix)
    rotation = np.swapaxes(matrix[..., :3, :3], -1, -2)
    inverse[..., :3, :3] = rotation
    inverse[..., :3, 3:] = -rotation @ matrix[..., :3, 3:]
    inverse[..., 3, 3] = 1.0
    return inverse


def pinhole(fov: float) -> np.ndarray:
    """Return the (3, 3) intrinsic matrix of a 1600x900 camera with a horizontal field of view in degrees."""
    focal = IMAGE_WIDTH / (2 * np.tan(np.radians(fov) / 2))
    return np.array([[focal, 0.0, IMAGE_WIDTH / 2], [0.0, focal, IMAGE_HEIGHT / 2], [0.0, 0.0, 1.0]])


def cam2ego(raw: np.ndarray) -> np.ndarray:
    """Turn an annotation's UE ``cam2ego`` into optical camera to RH ego."""
    return S @ raw @ A


def lidar2ego(raw: np.ndarray) -> np.ndarray:
    """Turn an annotation's UE ``lidar2ego`` into LiDAR to RH ego."""
    return S @ raw @ S @ B


def world2lidar(raw: np.ndarray) -> np.ndarray:
    """Turn an annotation's UE ``world2lidar`` into RH world to LiDAR."""
    return C @ raw @ S


def ue_world2lidar(ego2world: np.ndarray) -> np.ndarray:
    """Return UE world to LiDAR (4, 4), by the ego's pose (4, 4) in the UE world."""
    return C @ np.linalg.inv(ego2world @ LIDAR_TOP.sensor2ego)


def transform(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Apply a (4, 4) matrix to (..., 3) points."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def heading(matrix: np.ndarray) -> np.ndarray:
    """Angle of the first axis of (..., 4, 4) poses in the x-y plane, radians, counter-clockwise from +x."""
    return np.arctan2(matrix[..., 1, 0], matrix[..., 0, 0])

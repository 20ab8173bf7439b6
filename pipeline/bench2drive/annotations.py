"""One annotated frame: what extraction and ground truth use of it.

Formulas: spec Bench2Drive, sections 3.1 and 3.5. Poses come from the simulator; ``can_bus`` comes from noisy
GNSS and IMU. The two must not be mixed: the GNSS sensor sits 1.4 m from the ego's origin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cache_schema.errors import ClipError
from cache_schema.vocabulary.driving import COMMANDS, SPEED
from pipeline.bench2drive.geometry import (
    CAMERAS,
    IMAGE_HEIGHT,
    IMAGE_WIDTH,
    cam2ego,
    lidar2ego,
    rigid_inverse,
    world2lidar,
)
from pipeline.bench2drive.record import Record

if TYPE_CHECKING:
    from pathlib import Path

FOLLOW = COMMANDS.index("follow")


@dataclass(frozen=True, eq=False)
class Annotation:
    """One frame, in right-handed axes. Matrices are float64; the legend of frames is in ``geometry``."""

    command: int
    """Index into ``COMMANDS``, of the near route node."""
    ego_yaw: float
    """Compass heading in the RH world, radians, counter-clockwise from +x, in (-3/2 pi, pi/2]."""
    can_bus: np.ndarray
    """(18) position, quaternion (w, x, y, z), velocity, acceleration, rotation rate, yaw (rad), yaw (deg)."""
    world2lidar: np.ndarray
    """(4, 4) RH world to LiDAR."""
    lidar2cam: np.ndarray
    """(6, 4, 4) LiDAR to optical cameras."""
    intrinsic: np.ndarray
    """(6, 3, 3) of the raw 1600x900 images."""
    boxes: tuple[Record, ...]
    """Actors as recorded; the first is the ego vehicle."""


def read_annotation(path: Path) -> Annotation:
    """Read one frame's ``.json`` or ``.json.gz``.

    Raises:
        ClipError: The file is not whole, or a key is missing or misshapen.
    """
    return annotation_of(Record.read(path))


def annotation_of(record: Record) -> Annotation:
    """Return what one frame's JSON object says.

    Raises:
        ClipError: A key is missing or misshapen.
    """
    sensors = record.child("sensors")
    cameras = [sensors.child(name) for name in CAMERAS]
    for camera in cameras:
        _check_size(camera)
    lidar = sensors.child("LIDAR_TOP")
    # The original conversion takes pi where the compass is NaN.
    ego_yaw = -record.number("theta", nan=math.pi) + math.pi / 2
    camera2ego = cam2ego(np.stack([camera.pose("cam2ego") for camera in cameras]))
    return Annotation(
        command=_command(record),
        ego_yaw=ego_yaw,
        can_bus=_can_bus(record, ego_yaw),
        world2lidar=world2lidar(lidar.pose("world2lidar")),
        lidar2cam=rigid_inverse(camera2ego) @ lidar2ego(lidar.pose("lidar2ego")),
        intrinsic=np.stack([camera.array("intrinsic", 3, 3) for camera in cameras]),
        boxes=record.children("bounding_boxes"),
    )


def _check_size(camera: Record) -> None:
    """Check the size that an annotation states of a camera's images, if it does."""
    for key, size in (("image_size_x", IMAGE_WIDTH), ("image_size_y", IMAGE_HEIGHT)):
        if key in camera and camera.number(key) != size:
            raise ClipError(
                f"the annotation {camera.path} has {camera.place}.{key} = {camera.number(key):g}",
                expected=f"{IMAGE_WIDTH}x{IMAGE_HEIGHT}, to which resize and intrinsics are tied",
                repair="use Bench2Drive's original data, or leave the clip out",
            )


def _command(record: Record) -> int:
    option = record.number("command_near")
    if option < 0:
        return FOLLOW
    if option - 1 not in range(len(COMMANDS)):
        raise ClipError(
            f"the annotation {record.path} has 'command_near' = {option:g}",
            expected=f"a CARLA road option: negative for none, or 1 to {len(COMMANDS)}",
            repair="unpack the clip's archive again, or leave the clip out",
        )
    return int(option) - 1


def _can_bus(record: Record, ego_yaw: float) -> np.ndarray:
    positive_yaw = ego_yaw + 2 * math.pi if ego_yaw < 0 else ego_yaw
    can_bus = np.zeros(18)
    can_bus[0:2] = record.number("x"), -record.number("y")
    can_bus[3], can_bus[6] = math.cos(ego_yaw / 2), math.sin(ego_yaw / 2)
    can_bus[SPEED] = record.number("speed", nan=0.0)
    can_bus[10:13] = record.array("acceleration", 3) * (1, -1, 1)
    # All three signs flip, as in the data that the teacher was trained on, though a mirror keeps that of y.
    can_bus[13:16] = -record.array("angular_velocity", 3)
    can_bus[16:18] = positive_yaw, math.degrees(positive_yaw)
    return can_bus

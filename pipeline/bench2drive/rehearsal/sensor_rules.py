"""Which sensors the leaderboard lets an agent have (spec: closed loop 2)."""

from __future__ import annotations

import math
import os
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TRACK = "SENSORS"

SENSOR_ICONS = {
    "sensor.camera.rgb": "carla_camera",
    "sensor.lidar.ray_cast": "carla_lidar",
    "sensor.other.radar": "carla_radar",
    "sensor.other.gnss": "carla_gnss",
    "sensor.other.imu": "carla_imu",
    "sensor.speedometer": "carla_speedometer",
}
"""Sensors of the track, and their names in results."""
MOST_SENSORS = {
    "sensor.camera.rgb": 8,
    "sensor.lidar.ray_cast": 2,
    "sensor.other.radar": 4,
    "sensor.other.gnss": 1,
    "sensor.other.imu": 1,
    "sensor.speedometer": 1,
}
FARTHEST_MOUNT_M, FARTHEST_MOUNT_SAVING_M = 3.0, 100.0
"""From the ego's origin; the second where the variable SAVE_PATH is set."""


class SensorsInvalidError(Exception):
    """An agent's sensors break the leaderboard's rules."""


def check(sensors: Sequence[Mapping[str, Any]], track: Any) -> None:
    """Check what an agent wants to mount.

    Args:
        sensors: As ``AutonomousAgent.sensors`` returns them.
        track: The agent's ``Track``.

    Raises:
        SensorsInvalidError: The leaderboard refuses it.
    """
    if track.value != TRACK:
        raise SensorsInvalidError(f"the agent is for the track {track.value}, and this is {TRACK}")
    farthest = FARTHEST_MOUNT_SAVING_M if os.environ.get("SAVE_PATH") else FARTHEST_MOUNT_M
    for sensor in sensors:
        if sensor["type"] not in MOST_SENSORS:
            raise SensorsInvalidError(f"{sensor['type']} is none of {', '.join(MOST_SENSORS)}")
        if {"x", "y", "z"} <= sensor.keys() and math.hypot(*(sensor[key] for key in "xyz")) > farthest:
            raise SensorsInvalidError(f"{sensor['id']} is mounted farther than {farthest} m")
    twice = [name for name, count in Counter(sensor["id"] for sensor in sensors).items() if count > 1]
    if twice:
        raise SensorsInvalidError(f"several sensors are called {', '.join(twice)}")
    for kind, count in Counter(sensor["type"] for sensor in sensors).items():
        if count > MOST_SENSORS[kind]:
            raise SensorsInvalidError(f"{count} of {kind}, and {MOST_SENSORS[kind]} are allowed")

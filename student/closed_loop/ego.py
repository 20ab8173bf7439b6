"""Where the ego is, from the sensors of a drive: what a policy is told beside its images.

Two modes. ``parity`` does what ORION's agent does, which published scores were measured with. ``corrected``
takes away what the agent adds to the differences between the data that a student was trained on and a drive:

=============  =========================================  ==============================================
               parity                                     corrected
=============  =========================================  ==============================================
position       every tick's GNSS, where the antenna is    filtered with speed and yaw rate, at the ego
map origin     shifted where latitudes are not 0          right; poses count from the first tick
command        of the node at or behind the ego           of the next node, as in the annotations
yaw            in (-3/2 pi, pi/2]                         in [0, 2 pi)
no compass     faces north                                turns on by the yaw rate; at first, as the route
=============  =========================================  ==============================================

Source: spec closed loop 3, spec Bench2Drive 6.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cache_schema.errors import RequestError
from cache_schema.vocabulary.route import command_of
from student.closed_loop.inputs import FARTHEST_M, RoutePlan, Sensors
from student.closed_loop.map_reference import MapReference
from student.closed_loop.position_filter import PositionFilter
from student.closed_loop.rig import ANTENNA_BEHIND_M, LIDAR_TO_EGO
from student.closed_loop.route_planner import Node, RoutePlanner

if TYPE_CHECKING:
    from student.closed_loop import Mode

TICK_RATE_HZ = 20.0
"""Steps of a second in which the leaderboard simulates."""


class EgoState(NamedTuple):
    """Where the ego is, and what it is told."""

    position: np.ndarray
    """(2) x, y in metres, CARLA's world: of the antenna, and shifted, in ``parity``."""
    nodes_left: int
    """Nodes of the route that remain."""
    command: int
    """Index into ``cache_schema.vocabulary.driving.COMMANDS``."""
    near_xy: np.ndarray
    """(2) from the position to the next node, metres, right-handed world."""
    local_command_xy: np.ndarray
    """(2) the same, x right and y forward."""
    can_bus: np.ndarray
    """(18) float64, as the annotations of Bench2Drive have it."""
    ego_pose: np.ndarray
    """(4, 4) float64, LiDAR to right-handed world."""
    ego_pose_inv: np.ndarray
    """(4, 4) float64, right-handed world to LiDAR, with values that float32 has: upstream rounds it so."""
    timestamp_s: float
    """Since the first tick."""


class EgoTracker:
    """Follows the ego along its route: make a new one for every route.

    Args:
        plan: The route.
        mode: ``parity`` or ``corrected``.

    Raises:
        RequestError: The route has less than two nodes, or one without a position or an option, or it is not
            the same in degrees as in metres.
    """

    def __init__(self, plan: RoutePlan, mode: Mode) -> None:
        plan.check()
        self._corrected = mode == "corrected"
        reference = MapReference.of_node if self._corrected else MapReference.as_the_agent_solves_it
        self._reference = reference(plan.gps[0, :2], plan.world[0, :2])
        nodes = self._reference.metres(plan.gps[:, :2])
        self._start = nodes[0]
        self._planner = RoutePlanner(map(Node, nodes, plan.options.tolist()))
        self._filter = PositionFilter()
        self._begun = False
        self._step, self._yaw_rate = 0, 0.0
        self._compass = _compass_along(nodes)
        self._origin = np.zeros(2)

    def check_start(self, sensors: Sensors) -> None:
        """Find maps and sensors that do not belong together before the route is driven for nothing.

        ``step`` calls it at the first tick.

        Raises:
            RequestError: The GPS is far from the first node of the route.
        """
        start = np.linalg.norm(self._reference.metres(sensors.gps[:2]) - self._start)
        if not start <= FARTHEST_M:
            raise RequestError(
                f"at the first tick, the GPS is {start:.0f} m away from the first node of the route",
                expected=f"at most {FARTHEST_M:g} m: the ego starts there",
                repair="load the route's town, and use the CARLA client of the server's version",
            )

    def step(self, sensors: Sensors) -> EgoState:
        """Take the sensors of the next tick.

        Raises:
            RequestError: A value is not finite; at the first tick, the GPS is far from the route.
        """
        sensors.check()
        if not self._begun:
            self.check_start(sensors)
        antenna = self._reference.metres(sensors.gps[:2]) * (1, -1)
        # The simulator knows neither compass nor motion in its first ticks.
        imu = np.zeros(7) if np.isnan(sensors.imu[6]) else np.asarray(sensors.imu, dtype=np.float64)
        if self._corrected:
            position, yaw = self._locate(sensors, antenna)
        else:
            position, yaw = antenna, math.pi / 2 - imu[6]
        if self._corrected and not self._begun:
            self._origin = position
        self._begun, self._step = True, sensors.step

        behind, near = self._planner.step(position * (1, -1))
        near_xy = near.xy * (1, -1) - position
        pose = ego_pose(position - self._origin, yaw)
        return EgoState(
            position=position * (1, -1),
            nodes_left=self._planner.nodes_left,
            command=command_of(near.option if self._corrected else behind.option),
            near_xy=near_xy,
            local_command_xy=_rotation(math.pi / 2 - yaw) @ near_xy,
            can_bus=self._can_bus(position - self._origin, yaw, sensors.speed_m_s, imu),
            ego_pose=pose,
            ego_pose_inv=_inverse(pose),
            timestamp_s=sensors.step / TICK_RATE_HZ,
        )

    def _locate(self, sensors: Sensors, antenna: np.ndarray) -> tuple[np.ndarray, float]:
        """Return the ego's position (2), right-handed world, and its yaw, unwrapped as the parity mode's."""
        elapsed_s = (sensors.step - self._step) / TICK_RATE_HZ
        if np.isnan(sensors.imu[6]):
            self._compass = (self._compass - self._yaw_rate * elapsed_s) % (2 * math.pi)
        else:
            self._compass, self._yaw_rate = float(sensors.imu[6]), -float(sensors.imu[5])
        yaw = math.pi / 2 - self._compass
        middle = yaw - self._yaw_rate * elapsed_s / 2
        antenna = self._filter.step(antenna, sensors.speed_m_s, middle, elapsed_s)
        return antenna + ANTENNA_BEHIND_M * _rotation(yaw)[:, 0], yaw

    def _can_bus(self, position: np.ndarray, yaw: float, speed_m_s: float, imu: np.ndarray) -> np.ndarray:
        told = yaw % (2 * math.pi) if self._corrected else yaw
        return np.array(
            [
                *position,
                0.0,
                math.cos(yaw / 2),
                0.0,
                0.0,
                math.sin(yaw / 2),
                speed_m_s,
                0.0,
                0.0,
                *(imu[:3] * (1, -1, 1)),
                *-imu[3:6],
                told,
                math.degrees(told),
            ]
        )


def ego_pose(position: np.ndarray, yaw: float) -> np.ndarray:
    """Return (4, 4) LiDAR to right-handed world of a vehicle on a plane.

    Args:
        position: (2) of the ego's origin, metres, right-handed world.
        yaw: Radians, counter-clockwise from x.
    """
    ego_to_world = np.eye(4)
    ego_to_world[:2, :2] = _rotation(yaw)
    ego_to_world[:2, 3] = position
    return ego_to_world @ LIDAR_TO_EGO


def _inverse(pose: np.ndarray) -> np.ndarray:
    inverse = np.eye(4, dtype=np.float32)
    inverse[:3, :3] = pose[:3, :3].T
    inverse[:3, 3] = -pose[:3, :3].T @ pose[:3, 3]
    return inverse.astype(np.float64)


def _rotation(angle: float) -> np.ndarray:
    """Return (2, 2), counter-clockwise."""
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.array([[cosine, -sine], [sine, cosine]])


def _compass_along(nodes: np.ndarray) -> float:
    """Return the compass, radians, of a vehicle that looks from the first of (N, 2) nodes to the second."""
    x, y = (nodes[1] - nodes[0]).tolist()
    return (math.pi / 2 + math.atan2(y, x)) % (2 * math.pi)

"""Judges a drive by the leaderboard's rules, tick by tick: how far, what it hit, and when it is over.

Sources: spec closed loop 2 and 4.1; thresholds and windows as ScenarioRunner's criteria of the same names.

Axes are the UE world's: x forward, y right, metres, degrees.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.bench2drive.rehearsal.world import TICK_S, Event, Pose

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pipeline.bench2drive.rehearsal.world import RouteTask


def where(pose: Pose) -> str:
    """Return a position as the leaderboard's messages have it."""
    return f"(x={round(pose.x, 3)}, y={round(pose.y, 3)}, z=0.0)"


class Progress:
    """How much of the route is completed: up to the last of its nodes that the ego has passed, in order."""

    window = 2
    """Nodes beyond the next that may be passed at once."""
    completed_percent = 99.0
    completed_within_m = 10.0
    """Beyond so much of the route, and so near to its end, the route is completed."""

    def __init__(self, route: RouteTask) -> None:
        self.positions = route.positions[:, :2]
        radians = np.radians(route.yaw)
        self.forward = np.stack([np.cos(radians), np.sin(radians)], axis=1)
        self.along = route.along
        self.node = 0
        self.percent = 0.0

    def step(self, pose: Pose) -> None:
        """Follow the ego."""
        position = np.array([pose.x, pose.y])
        for node in range(self.node, min(self.node + self.window + 1, len(self.positions))):
            if (position - self.positions[node]) @ self.forward[node] > 0:
                self.node = node
        self.percent = round(float(self.along[self.node] / self.along[-1] * 100), 2)
        left = np.linalg.norm(position - self.positions[-1])
        if self.percent > self.completed_percent and left < self.completed_within_m:
            self.percent = 100.0


class InRoute:
    """The ego may leave the route neither far, nor for long."""

    window = 5
    farthest_m = 30.0
    safe_m = farthest_m / 2
    """Beyond, the way counts as outside."""
    longest_percent = 30.0
    """Of the route, outside."""

    def __init__(self, route: RouteTask) -> None:
        self.positions = route.positions[:, :2]
        self.along = route.along
        self.node = 0
        self.outside_m = 0.0

    def step(self, pose: Pose) -> Event | None:
        """Judge a tick."""
        near = self.positions[self.node : self.node + self.window + 1]
        distances = np.linalg.norm(near - (pose.x, pose.y), axis=1)
        nearest = self.node + len(near) - 1 - int(distances[::-1].argmin())
        if distances.min() >= self.safe_m:
            self.outside_m += self.along[nearest] - self.along[self.node]
        self.node = nearest
        too_long = 100 * self.outside_m / self.along[-1] > self.longest_percent
        if distances.min() < self.farthest_m and not too_long:
            return None
        return Event("route_dev", f"Agent deviated from the route at {where(pose)}")


class Blocked:
    """The ego may not stand still for long."""

    slowest_m_s = 0.1
    longest_s = 60.0

    def __init__(self) -> None:
        self.ticks = 0

    def step(self, pose: Pose) -> Event | None:
        """Judge a tick."""
        self.ticks = self.ticks + 1 if pose.speed_m_s < self.slowest_m_s else 0
        if self.ticks * TICK_S <= self.longest_s:
            return None
        return Event("vehicle_blocked", f"Agent got blocked at {where(pose)}")


class Obstacle(NamedTuple):
    """Something that the ego may hit, now."""

    kind: str
    """Of the event: collisions_vehicle, collisions_pedestrian or collisions_layout."""
    id: int
    type_id: str
    corners: np.ndarray
    """(4, 2) of its box seen from above, in turn around it."""


class Collisions:
    """The ego may hit nothing, but is not blamed where it stands. Nothing stops it, either: a toy."""

    same_within_m = 5.0
    same_within_s = 5.0
    """Collisions so near to the one before, or with the same obstacle so soon, are the same."""
    blameless_m_s = 0.1

    def __init__(self, size: tuple[float, float]) -> None:
        self.size = size
        """Half length and half width of the ego."""
        self.tick = 0
        self._last: tuple[int, int] | None = None
        """Obstacle and tick of the last collision."""
        self._place: np.ndarray | None = None

    def step(self, pose: Pose, obstacles: Iterable[Obstacle]) -> Event | None:
        """Judge a tick."""
        self.tick += 1
        position = np.array([pose.x, pose.y])
        if self._place is not None and np.linalg.norm(position - self._place) > self.same_within_m:
            self._place = None
        if self._last is not None and (self.tick - self._last[1]) * TICK_S > self.same_within_s:
            self._last = None
        if pose.speed_m_s < self.blameless_m_s or self._place is not None:
            return None
        ego = rectangle(position, pose.yaw, self.size)
        for obstacle in obstacles:
            if (self._last is None or obstacle.id != self._last[0]) and overlap(ego, obstacle.corners):
                self._last, self._place = (obstacle.id, self.tick), position
                what = f"object with type={obstacle.type_id} and id={obstacle.id}"
                return Event(obstacle.kind, f"Agent collided against {what} at {where(pose)}")
        return None


def rectangle(centre: np.ndarray, yaw: float, size: tuple[float, float]) -> np.ndarray:
    """Return the corners (4, 2) of a rectangle of a half length and a half width, heading ``yaw``."""
    cos, sin = np.cos(np.radians(yaw)), np.sin(np.radians(yaw))
    corners = np.array([[1.0, 1], [1, -1], [-1, -1], [-1, 1]]) * size
    return centre + corners @ np.array([[cos, sin], [-sin, cos]])


def overlap(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two rectangles (4, 2) have points in common: no side of either lies between them."""
    for corners in (one, other):
        for axis in (corners[1] - corners[0], corners[2] - corners[1]):
            here, there = one @ axis, other @ axis
            if here.max() < there.min() or there.max() < here.min():
                return False
    return True


class OutsideLanes:
    """How much of the way is driven outside of the lanes of the route's direction."""

    shoulder_m = 0.5

    def __init__(self, left_m: float, right_m: float) -> None:
        self.left_m, self.right_m = left_m - self.shoulder_m, right_m + self.shoulder_m
        """Edges of the lanes, from the road's reference line to the right."""
        self.driven_m = self.outside_m = 0.0

    def step(self, advance_m: float, lateral_m: float) -> None:
        """Add a way along the route."""
        self.driven_m += advance_m
        if not self.left_m <= lateral_m <= self.right_m:
            self.outside_m += advance_m

    def event(self) -> Event | None:
        """Return what is to be said of the whole way."""
        if not self.outside_m:
            return None
        percent = round(self.outside_m / self.driven_m * 100, 2)
        way = f"for about {round(self.outside_m, 3)} meters ({percent}% of the completed route)"
        return Event("outside_route_lanes", f"Agent went outside its route lanes {way}", percent)


class MinimumSpeed:
    """Compares speeds: of the ego and of other vehicles, on every twentieth of the route."""

    parts = 20

    def __init__(self, length_m: float) -> None:
        self.part_m = length_m / self.parts
        self._from_m = 0.0
        self._own: list[float] = []
        self._others: list[float] = []

    def step(self, along_m: float, speed_m_s: float, others_m_s: Sequence[float]) -> Event | None:
        """Judge a tick."""
        event = None
        if along_m - self._from_m > self.part_m:
            event = self.event()
            self._from_m = along_m
            self._own, self._others = [], []
        if others_m_s:
            self._own.append(speed_m_s)
            self._others.append(sum(others_m_s) / len(others_m_s))
        return event

    def event(self) -> Event:
        """Return what is to be said of the part that ends now."""
        others = sum(self._others)
        percent = round(sum(self._own) / others * 100, 2) if others else 100
        return Event("min_speed_infractions", f"Average speed is {percent}% of the surrounding traffic's one")


class RedLight:
    """The ego's tail may not pass a stop line while its light is red."""

    tail = 0.8
    """Of the ego's half length, behind its middle."""

    def __init__(self, line_m: float, half_length_m: float, light: str) -> None:
        self.line_m = line_m + self.tail * half_length_m
        self.light = light
        """Number and place, for the message."""
        self._before_m: float | None = None

    def step(self, s: float, *, red: bool) -> Event | None:
        """Judge a tick by the ego's distance along the road."""
        before, self._before_m = self._before_m, s
        if red and before is not None and before <= self.line_m < s:
            return Event("red_light", f"Agent ran a red light {self.light}")
        return None

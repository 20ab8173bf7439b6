"""A recorded clip, replayed to an agent: the stored images at the stored poses, whatever the agent does.

Every tick is one frame of the clip. What the agent is sent, and no real leaderboard sends, is ``REPLAY``. It
is no score: the route is completed when the frames are.

Dimension letters: F frames.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cache_schema.errors import ClipError, RequestError
from cache_schema.vocabulary.driving import ACCELERATION, SPEED, YAW_RATE
from pipeline.bench2drive.clip_annotations import read_annotations
from pipeline.bench2drive.clips import find_clips
from pipeline.bench2drive.geometry import LIDAR_TOP, heading, lidar2ego, rigid_inverse
from pipeline.bench2drive.jpeg import jpeg_bytes
from pipeline.bench2drive.rehearsal.world import Pose, RouteTask, geographic, metric_info
from pipeline.bench2drive.source import OpenBench2DriveClip

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from pipeline.bench2drive.clips import RawClip
    from pipeline.bench2drive.jpeg import Jpeg
    from pipeline.bench2drive.rehearsal.world import Control, Event

REPLAY = "REPLAY"
SHORTEST_ROUTE_M = 1.0
"""Of a clip whose ego stands: the route has a second node all the same."""


class ReplayWorld:
    """Implements ``World`` by a clip.

    Args:
        clip: The clip.

    Raises:
        ClipError: An annotation is broken.
    """

    kind = "replay"

    def __init__(self, clip: RawClip) -> None:
        arrays = read_annotations(clip)
        self._clip = OpenBench2DriveClip(clip, arrays)
        self.frames = len(clip.frames)
        ego2world = arrays.ego_pose @ rigid_inverse(lidar2ego(LIDAR_TOP.sensor2ego))
        self._places = ego2world[:, :2, 3] * (1, -1)
        self._yaw = -np.degrees(np.unwrap(heading(ego2world)))
        self._can_bus = arrays.can_bus
        parts = clip.parts
        self.route = RouteTask(
            parts.route, parts.town, parts.scenario, parts.weather, *self._nodes(arrays.command + 1)
        )
        self.tick = 0
        self.events: list[Event] = []

    @property
    def over(self) -> bool:
        """Whether all frames were shown."""
        return self.tick >= self.frames

    @property
    def completion(self) -> float:
        """Percent of the frames."""
        return 100.0 * self.tick / self.frames

    @property
    def pose(self) -> Pose:
        """Of the ego, as recorded."""
        now = min(self.tick, self.frames - 1)
        x, y = self._places[now].tolist()
        return Pose(x, y, float(self._yaw[now]), float(self._can_bus[now, SPEED]))

    @property
    def road(self) -> np.ndarray:
        """(2, 0, 2): a clip has no map."""
        return np.zeros((2, 0, 2))

    def others(self) -> np.ndarray:
        """Return (0, 4, 2): nothing stands in the way of a clip."""
        return np.zeros((0, 4, 2))

    def attach(self, sensors: Sequence[Mapping[str, Any]]) -> None:
        """Take any sensors: the data of the clip are what they are."""

    def sense(self) -> dict[str, tuple[int, Any]]:
        """Return the frame's observation, and what GPS, IMU and speedometer say of it."""
        sample = self._clip.sample(self.tick)
        observation = {
            "jpegs": {camera: _content(jpeg) for camera, jpeg in sample.images.items()},
            "lidar2cam": sample.lidar2cam,
            "intrinsic": sample.intrinsic,
            "ego_pose": sample.ego_pose,
            "ego_pose_inv": sample.ego_pose_inv,
            "timestamp_s": sample.timestamp_s,
            "command": sample.command,
            "can_bus": sample.can_bus,
        }
        can_bus = sample.can_bus
        position = np.array([can_bus[0], -can_bus[1], 0.0])
        compass = (math.pi / 2 - can_bus[16]) % (2 * math.pi)
        imu = np.array([*can_bus[10:13] * (1, -1, 1), *-can_bus[13:16], compass])
        data = {
            REPLAY: observation,
            "GPS": geographic(position, self.route.reference),
            "IMU": imu,
            "SPEED": {"speed": float(can_bus[SPEED])},
        }
        return {name: (self.tick, value) for name, value in data.items()}

    def apply(self, control: Control) -> None:
        """Show the next frame, whatever the control."""
        self.tick += 1

    def finish(self) -> None:
        """Judge nothing."""

    def metric_info(self) -> dict[str, list[float]]:
        """Return the ego's motion as ``AutonomousAgent.get_metric_info`` does."""
        can_bus = self._can_bus[min(self.tick, self.frames - 1)]
        forward, left = can_bus[list(ACCELERATION)].tolist()
        return metric_info(self.pose, (forward, -left), -math.degrees(can_bus[YAW_RATE]))

    def _nodes(self, options: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return positions, headings and options about every metre of the way that was driven.

        Args:
            options: (F) road options.
        """
        steps = np.linalg.norm(np.diff(self._places, axis=0), axis=1)
        along = np.concatenate([[0.0], np.cumsum(steps)])
        nodes = np.arange(math.floor(along[-1]) + 1.0)
        frames = np.searchsorted(along, nodes)
        x, y, yaw = (np.interp(nodes, along, values) for values in (*self._places.T, self._yaw))
        if len(nodes) == 1:
            radians = np.radians(yaw[0])
            x = x[0] + np.array([0.0, SHORTEST_ROUTE_M]) * np.cos(radians)
            y = y[0] + np.array([0.0, SHORTEST_ROUTE_M]) * np.sin(radians)
            yaw, frames = np.repeat(yaw, 2), np.repeat(frames, 2)
        return np.column_stack([x, y, np.zeros(len(x))]), yaw, options[frames]


def _content(jpeg: Jpeg) -> bytes:
    try:
        return jpeg_bytes(jpeg)
    except OSError as error:
        raise ClipError(
            f"an image of the clip cannot be replayed: {error}",
            expected="a JPEG of every camera for every annotated frame",
            repair="unpack the clip's archive again, or leave the clip out",
        ) from error


def replays(root: Path) -> dict[int, Callable[[], ReplayWorld]]:
    """Find the clips of a data root: number of the route -> opens the clip.

    Raises:
        ClipError: There is none, or one that cannot be read.
        RequestError: Two are of the same route.
    """
    found: dict[int, RawClip] = {}
    discovery = find_clips(root)
    for error in discovery.rejected.values():
        raise error
    for clip in discovery.clips:
        other = found.setdefault(clip.parts.route, clip)
        if other is not clip:
            raise RequestError(
                f"the clips {other.name} and {clip.name} are of the same route",
                expected="one clip a route: results name routes, and no clips",
                repair="give a folder with links to some of the clips",
            )
    return {number: partial(ReplayWorld, clip) for number, clip in found.items()}

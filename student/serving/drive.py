"""One route: from what an agent sends at a tick to an observation, and from a plan to a control."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cache_schema.vocabulary.driving import SPEED
from cache_schema.vocabulary.observation import Observation
from student.closed_loop.controller import AgentController
from student.closed_loop.ego import EgoTracker, RoutePlan, Sensors
from student.closed_loop.rig import RIG
from student.serving.messages import MessageError, jpeg_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from student.closed_loop import Mode
    from student.serving.messages import Plan, Replay, SensorValues, Tick

CAMERA_SIZE = (1600, 900)
"""Width and height, to which intrinsics are tied."""


class Rules(NamedTuple):
    """How a server drives: the same for all its routes."""

    mode: Mode
    every: int = 1
    """The policy plans at every so manyth tick; the controller follows the last plan at the others."""
    allow_replay: bool = False
    """Whether agents may send observations of recorded clips; for rehearsals only."""


class Drive:
    """What is known of a route on its way, beside the memory that the policy has of it.

    Args:
        clip: Name of the drive, of no other before.
        plan: The route.
        rules: How it is driven.

    Raises:
        RequestError: The plan cannot be followed.
    """

    def __init__(self, clip: str, plan: Plan, rules: Rules) -> None:
        self.clip = clip
        self.rules = rules
        gps, world = np.array(plan.gps), np.array(plan.world)
        self._tracker = EgoTracker(
            RoutePlan(gps[:, :3], world[:, :3], np.array([node[3] for node in plan.world])), rules.mode
        )
        self._controller = AgentController()
        self._step = -1
        self._positions = np.empty((0, 2))
        self._speed_m_s = 0.0
        self._command = 0

    def observe(self, tick: Tick, jpegs: Sequence[bytes]) -> Observation | None:
        """Return what the policy sees at a tick; None if it does not plan at this one.

        Raises:
            MessageError: The tick is not the next one, or its images are not what they have to be.
            RequestError: The cameras or the vehicle's place are not as expected; see ``EgoTracker.step``.
        """
        if tick.step != self._step + 1:
            raise MessageError("protocol", f"step {tick.step} after step {self._step}")
        due = tick.step % self.rules.every == 0
        if due:
            RIG.check(tick.cameras)
        if len(jpegs) != len(tick.cameras) or (jpegs and not due):
            raise MessageError("protocol", f"{len(jpegs)} images at step {tick.step}")
        for camera, jpeg in zip(tick.cameras, jpegs, strict=True):
            if (size := jpeg_size(jpeg)) != CAMERA_SIZE:
                raise MessageError("protocol", f"the image of {camera} is {size[0]}x{size[1]}, not 1600x900")
        images = dict(zip(tick.cameras, jpegs, strict=True))
        if tick.sensors is not None and tick.replay is None:
            seen = self._seen(tick.step, tick.sensors, images)
        elif tick.replay is not None and tick.sensors is None and self.rules.allow_replay:
            if not len(tick.replay.lidar2cam) == len(tick.replay.intrinsic) == len(RIG.cameras):
                raise MessageError("protocol", f"a replay has {len(RIG.cameras)} cameras")
            seen = _recorded(self.clip, tick.replay, images)
        else:
            raise MessageError("protocol", "a tick has sensors, or a replay where the server allows that")
        self._step = tick.step
        self._speed_m_s, self._command = float(seen.can_bus[SPEED]), seen.command
        return seen if due else None

    def follow(self, positions: np.ndarray | None) -> dict[str, Any]:
        """Return what is answered to a tick: control, plan and command.

        Args:
            positions: (6, 2) the plan, or None to go on following the last one.
        """
        if positions is not None:
            self._positions = positions
        control = self._controller.step(self._positions, self._speed_m_s)
        return {
            "steer": float(control.steer),
            "throttle": float(control.throttle),
            "brake": float(control.brake),
            "plan": self._positions.tolist(),
            "command": self._command,
        }

    def _seen(self, step: int, values: SensorValues, images: dict[str, bytes]) -> Observation:
        imu = np.array([np.nan if value is None else value for value in values.imu])
        sensors = Sensors(step, np.array(values.gps), imu, values.speed_m_s)
        ego = self._tracker.step(sensors)
        return Observation(
            clip=self.clip,
            jpegs=images,
            lidar2cam=RIG.lidar2cam,
            intrinsic=RIG.intrinsic,
            ego_pose=ego.ego_pose,
            ego_pose_inv=ego.ego_pose_inv,
            timestamp_s=ego.timestamp_s,
            command=ego.command,
            can_bus=ego.can_bus,
        )


def _recorded(clip: str, replay: Replay, images: dict[str, bytes]) -> Observation:
    return Observation(
        clip=clip,
        jpegs=images,
        lidar2cam=np.array(replay.lidar2cam),
        intrinsic=np.array(replay.intrinsic),
        ego_pose=np.array(replay.ego_pose),
        ego_pose_inv=np.array(replay.ego_pose_inv),
        timestamp_s=replay.timestamp_s,
        command=replay.command,
        can_bus=np.array(replay.can_bus),
    )

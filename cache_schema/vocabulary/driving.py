"""Ground truth of driving data: its features, their units and their coordinate frames.

On disk it has the role ``truth``.
"""

from __future__ import annotations

from cache_schema.format.features import FeatureSpec

LIDAR = "lidar: x right, y forward, z up"
WORLD = "right-handed world: CARLA's with y negated"

TRAJECTORY_STEPS = 6
"""Future positions of a trajectory, 0.5 s apart."""

EGO_LENGTH_M, EGO_WIDTH_M = 4.084, 1.85
"""Size of the ego vehicle."""

COMMANDS = ("left", "right", "straight", "follow", "change_left", "change_right")
"""Driving commands by index: CARLA's road option less one."""

COMMAND = "command"
CAN_BUS = "can_bus"
SPEED = 7
"""Place of the speed in ``can_bus``, m/s: forward velocity. Bench2Drive records no lateral one."""
ACCELERATION = (10, 11)
"""Places of the acceleration in ``can_bus``, m/s2: x forward, y left."""
YAW_RATE = 15
"""Place of the yaw rate in ``can_bus``, rad/s, counter-clockwise."""

VEHICLES = (0, 1, 2)
"""Class numbers of car, van and truck, in agents of the ground truth and of ORION."""
HUMANS = (3, 7)
"""Class numbers of bicycle and pedestrian."""
NO_AGENT = -1
"""Class number of a row that holds no agent."""

AGENTS = 64
"""Agents of a frame's ground truth: within 51.2 m, a street parked full on both sides holds 34 cars, and
bumper-to-bumper traffic on two lanes 26; Bench2Drive's scenarios have one or the other. Where there are more,
the nearest are kept, and ``truth_agent_count`` has their number."""

GROUND_TRUTH_AGENTS = (
    FeatureSpec(
        name="truth_agent_boxes",
        shape=(AGENTS, 5),
        axes=("agent", "x_y_length_width_heading"),
        dtype="float32",
        role="truth",
        unit="m, rad",
        frame=LIDAR,
        description="Middle, size and heading (counter-clockwise from +x) of the vehicles and people within "
        "51.2 m in x and y that a camera's field of view and the LiDAR reach; the nearest first, then zeros.",
    ),
    FeatureSpec(
        name="truth_agent_classes",
        shape=(AGENTS,),
        axes=("agent",),
        dtype="int8",
        role="truth",
        description="car 0, van 1, truck 2, bicycle 3, pedestrian 7; -1 where there is no agent.",
    ),
    FeatureSpec(
        name="truth_agent_offsets",
        shape=(AGENTS, TRAJECTORY_STEPS, 3),
        axes=("agent", "step", "x_y_heading"),
        dtype="float32",
        role="truth",
        unit="m, rad",
        frame=LIDAR,
        description="Offset of every 0.5 s step of an agent's future from the step before, as the published "
        "metrics read it: x and y are 0 where masked, and count from the LiDAR after a masked step; so does "
        "the heading, whose masked steps are 0 rad.",
    ),
    FeatureSpec(
        name="truth_agent_offsets_mask",
        shape=(AGENTS, TRAJECTORY_STEPS),
        axes=("agent", "step"),
        dtype="bool",
        role="truth",
        description="True where the agent is annotated, and seen, at the end of that step.",
    ),
    FeatureSpec(
        name="truth_agent_count",
        shape=(),
        axes=(),
        dtype="int16",
        role="truth",
        description=f"How many such agents there are; where more than {AGENTS}, the farthest are left out.",
    ),
)
"""The other road users, as far as open-loop collision metrics read them."""

GROUND_TRUTH = (
    FeatureSpec(
        name="ego_trajectory",
        shape=(TRAJECTORY_STEPS, 2),
        axes=("step", "xy"),
        dtype="float32",
        role="truth",
        unit="m",
        frame=LIDAR,
        description="Offset of every 0.5 s step of the ego's future from the step before; 0 where masked.",
    ),
    FeatureSpec(
        name="ego_trajectory_mask",
        shape=(TRAJECTORY_STEPS,),
        axes=("step",),
        dtype="bool",
        role="truth",
        description="True where the clip still has a frame at that step (the complete reading of the mask).",
    ),
    FeatureSpec(
        name=COMMAND,
        shape=(),
        axes=(),
        dtype="int8",
        role="truth",
        description="Driving command at the near route node: " + ", ".join(COMMANDS) + ".",
    ),
    FeatureSpec(
        name="timestamp",
        shape=(),
        axes=(),
        dtype="float64",
        role="truth",
        unit="s",
        description="Time since the clip's frame 0.",
    ),
    FeatureSpec(
        name="frame_index",
        shape=(),
        axes=(),
        dtype="int32",
        role="truth",
        description="Number of the frame in the raw clip.",
    ),
    FeatureSpec(
        name="ego_pose",
        shape=(4, 4),
        axes=("row", "column"),
        dtype="float64",
        role="truth",
        unit="m",
        frame=WORLD,
        description="LiDAR to world transform.",
    ),
    FeatureSpec(
        name=CAN_BUS,
        shape=(18,),
        axes=("signal",),
        dtype="float64",
        role="truth",
        description="Position, quaternion, velocity, acceleration, rotation rate, yaw (rad), yaw (deg).",
    ),
    *GROUND_TRUTH_AGENTS,
)
"""Features that every driving dataset has from its raw data alone."""

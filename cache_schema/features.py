"""What one array of a latent dataset means: its name, axes, dtype, role, unit and coordinate frame."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

Role = Literal["input", "target", "truth"]
DType = Literal["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint16", "bool"]


class FeatureSpec(BaseModel):
    """One named array, with a value for every frame of every clip.

    A feature of shape ``s`` is stored as one array a clip of shape ``(frames, *s)``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")
    """Name of the array inside every clip."""
    shape: tuple[int, ...]
    """Shape of one frame's value."""
    axes: tuple[str, ...]
    """One name for each axis of ``shape``; the leading ``frame`` axis is not repeated here."""
    dtype: DType
    """Element type as Zarr stores it."""
    role: Role
    """``input``: the student reads it; ``target``: the teacher said it; ``truth``: the data says it."""
    unit: str = "1"
    """SI unit of the values; ``1`` where they have none."""
    frame: str | None = None
    """Coordinate frame of positions, such as ``lidar: x right, y forward, z up``."""
    encoding: Literal["full"] = "full"
    """How values are stored: ``full`` is the values themselves."""
    segments: tuple[tuple[str, int], ...] = ()
    """What the first axis is made of, in order: (name, length) pairs that add up to it."""
    description: str = ""
    """One sentence for a stranger."""

    @model_validator(mode="after")
    def _axes_fit_shape(self) -> FeatureSpec:
        if len(self.axes) != len(self.shape):
            raise ValueError(
                f"{self.name}: {len(self.axes)} axis names for a shape of {len(self.shape)} axes"
            )
        if any(size < 1 for size in self.shape):
            raise ValueError(f"{self.name}: every axis must be at least 1 long, not {self.shape}")
        if self.segments and sum(length for _, length in self.segments) != self.shape[0]:
            raise ValueError(f"{self.name}: segments {self.segments} do not add up to {self.shape[0]}")
        return self

    @property
    def nbytes(self) -> int:
        """Bytes of one frame's value."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


LIDAR = "lidar: x right, y forward, z up"
WORLD = "right-handed world: CARLA's with y negated"

TRAJECTORY_STEPS = 6
"""Future positions of a trajectory, 0.5 s apart."""

COMMANDS = ("left", "right", "straight", "follow", "change_left", "change_right")
"""Driving commands by index: CARLA's road option less one."""

TRUTH = (
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
        name="command",
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
        name="can_bus",
        shape=(18,),
        axes=("signal",),
        dtype="float64",
        role="truth",
        description="Position, quaternion, velocity, acceleration, rotation rate, yaw (rad), yaw (deg).",
    ),
)
"""Features of every driving dataset, from the raw data alone."""

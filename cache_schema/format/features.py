"""What one array of a latent dataset means: its name, axes, dtype, role, unit and coordinate frame."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

FEATURE_NAME = r"^[a-z][a-z0-9_]{0,63}$"
"""No such name leaves its folder, and none holds a dot."""
Role = Literal["input", "target", "truth"]
DType = Literal["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint16", "bool"]
Encoding = Literal["full", "bfloat16", "int8-per-channel"]


class FeatureSpec(BaseModel):
    """One named array, with a value for every frame of every clip.

    A feature of shape ``s`` is read as one array a clip of shape ``(frames, *s)``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=FEATURE_NAME)
    """Name of the array inside every clip."""
    shape: tuple[int, ...]
    """Shape of one frame's value."""
    axes: tuple[str, ...]
    """One name for each axis of ``shape``; the leading ``frame`` axis is not repeated here."""
    dtype: DType
    """Element type of the values that readers get."""
    role: Role
    """``input``: the student reads it; ``target``: the teacher said it; ``truth``: the data says it."""
    unit: str = "1"
    """SI unit of the values; ``1`` where they have none."""
    frame: str | None = None
    """Coordinate frame of positions, such as ``lidar: x right, y forward, z up``."""
    encoding: Encoding = "full"
    """How values are stored: as they are, as bfloat16, or as int8 with a scale for each frame and channel."""
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

    @model_validator(mode="after")
    def _encoding_fits(self) -> FeatureSpec:
        if self.encoding == "bfloat16" and self.dtype != "float32":
            raise ValueError(f"{self.name}: bfloat16 is read as float32, not as {self.dtype}")
        if self.encoding == "int8-per-channel":
            if self.dtype not in ("float16", "float32"):
                raise ValueError(f"{self.name}: int8-per-channel holds float16 or float32, not {self.dtype}")
            if len(self.shape) < 2:
                raise ValueError(f"{self.name}: int8-per-channel needs two axes, the last of channels")
        return self

    @property
    def nbytes(self) -> int:
        """Bytes of one frame's value as readers get it."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize

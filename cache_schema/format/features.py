"""What one array of a latent dataset means: its name, axes, dtype, role, unit and coordinate frame."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator

if TYPE_CHECKING:
    from pydantic import SerializerFunctionWrapHandler

FEATURE_NAME = r"^[a-z][a-z0-9_]{0,63}$"
"""Pattern of a feature's name. No such name leaves its folder, and none holds a dot."""
Role = Literal["input", "target", "truth"]
DType = Literal["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "bool"]
Encoding = Literal["full", "bfloat16", "int8-per-channel", "lower-triangle"]


class Record(BaseModel):
    """Something that stands on disk: it does not change, and has no field but its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class FeatureSpec(Record):
    """One named feature, with a value for every frame of every clip.

    A feature of shape ``s`` is read as one array of shape ``(frames, *s)`` a clip. A ragged feature, whose
    value differs in shape from frame to frame, is read as a list of one array a frame.
    """

    name: str = Field(pattern=FEATURE_NAME)
    """Name of the feature; also of its array in every clip."""
    shape: tuple[int | None, ...]
    """Shape of one frame's value. None for an axis whose length differs from frame to frame."""
    axes: tuple[str, ...]
    """One name for each axis of ``shape``; the leading ``frame`` axis is not repeated here."""
    dtype: DType
    """Element type of the values that readers get."""
    role: Role
    """``input``: the student reads it; ``target``: the teacher computed it; ``truth``: it is ground truth."""
    unit: str = "1"
    """SI unit of the values; ``1`` where they have none."""
    frame: str | None = None
    """Coordinate frame of positions, such as ``lidar: x right, y forward, z up``."""
    encoding: Encoding = "full"
    """How values are stored: as they are, as bfloat16, as int8 with a scale for each frame and channel, or
    only the lower triangle of the last two axes."""
    segments: tuple[tuple[str, int], ...] = ()
    """Parts of the first axis, in order: (name, length) pairs that add up to it."""
    description: str = ""
    """One sentence."""
    stored_at: str | None = Field(default=None, pattern=FEATURE_NAME)
    """For ragged values that frames share: stored feature () of integers that says of every frame at which
    frame of the clip its value is stored. That is the frame itself, or an earlier one that stores its own;
    then the frame itself stores an empty value, 0 long in every axis whose length differs. None: every frame
    stores its own."""

    @model_validator(mode="after")
    def _axes_fit_shape(self) -> FeatureSpec:
        if len(self.axes) != len(self.shape):
            raise ValueError(
                f"{self.name}: {len(self.axes)} axis names for a shape of {len(self.shape)} axes"
            )
        if any(length is not None and length < 1 for length in self.shape):
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
            if len(self.shape) < 2 or self.ragged:
                raise ValueError(
                    f"{self.name}: int8-per-channel needs two axes of fixed length, the last of channels"
                )
        if self.encoding == "lower-triangle" and (len(self.shape) < 2 or self.shape[-1] != self.shape[-2]):
            raise ValueError(f"{self.name}: lower-triangle needs two last axes of equal length")
        return self

    @model_validator(mode="after")
    def _shared_values_can_be_empty(self) -> FeatureSpec:
        if self.stored_at is not None and not self.ragged:
            raise ValueError(f"{self.name}: values of one shape cannot be shared: none of them can be empty")
        return self

    @model_serializer(mode="wrap")
    def _as_written(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what format 1 does not have."""
        fields = serialize(self)
        if self.stored_at is None:
            fields.pop("stored_at", None)
        return fields

    @property
    def ragged(self) -> bool:
        """Whether values differ in shape from frame to frame."""
        return None in self.shape

    @property
    def fixed_shape(self) -> tuple[int, ...]:
        """The shape of every frame's value.

        Raises:
            ValueError: The feature is ragged.
        """
        fixed = tuple(length for length in self.shape if length is not None)
        if self.ragged:
            raise ValueError(f"{self.name} differs in shape from frame to frame")
        return fixed

    @property
    def nbytes(self) -> int:
        """Bytes of one frame's value as readers get it.

        Raises:
            ValueError: The feature is ragged.
        """
        return math.prod(self.fixed_shape) * np.dtype(self.dtype).itemsize

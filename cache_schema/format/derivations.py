"""Features that are not stored but computed when they are read: rows of stored ones, linearly projected.

The input of a language model may be much wider than what it was projected from. A dataset then stores the
narrow rows and, once, the projections as an asset; a reader computes the wide rows from both.

Dimension letters: n frames, R rows of a segment, E width of a stored row, D width of a derived row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from cache_schema.errors import DatasetError
from cache_schema.format.features import FEATURE_NAME, FeatureSpec, Record
from cache_schema.format.limits import SEGMENTS

if TYPE_CHECKING:
    from collections.abc import Mapping


class DerivedSegment(Record):
    """Some consecutive rows of a derived feature."""

    name: str
    """What the rows are, such as ``map``."""
    input: str = Field(pattern=FEATURE_NAME)
    """Stored feature that they come from: of shape (rows, E), or of shape (E), which is one row."""
    begin: int = Field(ge=0)
    """First of its rows."""
    length: int = Field(ge=1)
    """How many of them."""
    projection: str | None
    """Linear map of the asset that they pass through: ``NAME.weight`` (D, E), ``NAME.bias`` (D). None: they
    are D wide already."""


class Derivation(Record):
    """A feature of shape (rows, D) that is computed from stored features and an asset."""

    name: str = Field(pattern=FEATURE_NAME)
    """Name under which it is read. No stored feature has this name."""
    width: int = Field(ge=1)
    """Width D."""
    asset: str = Field(pattern=r"^[a-z0-9_]{1,64}$")
    """File of the linear maps: ``assets/<asset>.safetensors``."""
    segments: tuple[DerivedSegment, ...] = Field(min_length=1, max_length=SEGMENTS)
    """Where the rows come from, in order."""
    description: str = ""
    """One sentence."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Stored features that it is computed from, each once."""
        return tuple(dict.fromkeys(segment.input for segment in self.segments))

    @property
    def spec(self) -> FeatureSpec:
        """The derived feature as readers get it."""
        return FeatureSpec(
            name=self.name,
            shape=(sum(segment.length for segment in self.segments), self.width),
            axes=("token", "channel"),
            dtype="float32",
            role="input",
            segments=tuple((segment.name, segment.length) for segment in self.segments),
            description=self.description,
        )

    def misfit(self, features: Mapping[str, FeatureSpec]) -> str | None:
        """Return why these stored features cannot be its inputs; None if they can."""
        for segment in self.segments:
            spec = features.get(segment.input)
            if spec is None or spec.ragged or len(spec.shape) not in (1, 2):
                return f"there are no rows {segment.input!r}"
            rows, width = (1, *spec.fixed_shape)[-2:]
            if segment.begin + segment.length > rows:
                return f"{segment.input} has {rows} rows, fewer than {segment.begin + segment.length}"
            if segment.projection is None and width != self.width:
                return f"{segment.input} is {width} wide, not {self.width}"
        return None

    def check_asset(self, maps: Mapping[str, np.ndarray], features: Mapping[str, FeatureSpec]) -> None:
        """Check that linear maps fit the rows that they project.

        Raises:
            DatasetError: One is missing, or has another shape.
        """
        for segment in self.segments:
            if segment.projection is None:
                continue
            shapes = {
                f"{segment.projection}.weight": (self.width, features[segment.input].fixed_shape[-1]),
                f"{segment.projection}.bias": (self.width,),
            }
            for name, shape in shapes.items():
                if name not in maps or maps[name].shape != shape:
                    found = maps[name].shape if name in maps else "no shape"
                    raise DatasetError(
                        f"the asset {self.asset} has {name} of {found}",
                        expected=f"shape {shape}, which projects {segment.input} to the width of {self.name}",
                        repair="fetch the asset again, or read the features that are stored",
                    )

    def compute(self, inputs: Mapping[str, np.ndarray], maps: Mapping[str, np.ndarray]) -> np.ndarray:
        """Compute the feature.

        Args:
            inputs: (n, *shape) of every input.
            maps: Tensors of the asset, checked.

        Returns:
            (n, rows, D) float32.
        """
        parts = []
        for segment in self.segments:
            values = inputs[segment.input]
            rows = values[:, None] if values.ndim == 2 else values
            rows = rows[:, segment.begin : segment.begin + segment.length].astype(np.float32)  # (n, R, E)
            if segment.projection is not None:
                rows = rows @ maps[f"{segment.projection}.weight"].T + maps[f"{segment.projection}.bias"]
            parts.append(rows)
        return np.concatenate(parts, axis=1)

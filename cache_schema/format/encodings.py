"""How a feature's values become the arrays that are stored, and values again.

Readers always get values of the feature's own dtype. ``full`` stores them; ``bfloat16`` stores the upper half
of their bits; ``int8-per-channel`` stores steps of a scale that every frame and channel has for itself, since
one massive channel must not take the precision of all others; ``lower-triangle`` stores what is not above the
diagonal of the last two axes. Of a ragged feature, one flat array holds the stored values of all frames.

Dimension letters: n frames, * axes of one frame, C its last axis, the channels; N side of a square.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from cache_schema.format.ragged import SHAPE, frame_index, triangle_size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cache_schema.format.features import FeatureSpec

SCALE = ".scale"
"""Suffix of an array of scales. No feature's name can hold a dot, so the two never collide."""
STEPS = 127
"""Largest magnitude of an int8 value; -128 is left out, so that the range is symmetric."""
BFLOAT16_OVERFLOW = float.fromhex("0x1.ffp127")
"""Magnitudes from here on round to infinity in bfloat16."""
TRIANGLE_AXIS = "lower_triangle"
"""Name of the axis that takes the place of two where only a triangle is stored."""


class StoredArray(NamedTuple):
    """One array of a clip as it is stored, without its leading axis."""

    name: str
    """Its folder: the feature's name, or that with ``.scale`` or ``.shape``."""
    shape: tuple[int, ...]
    """Shape of one element along the leading axis."""
    dtype: str
    axes: tuple[str, ...]
    leading: Literal["frame", "value"] = "frame"
    """What the leading axis counts: the clip's frames, or all stored values of a ragged feature."""

    @property
    def nbytes(self) -> int:
        """Bytes of one element along the leading axis."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def stored_arrays(spec: FeatureSpec) -> tuple[StoredArray, ...]:
    """Return the arrays that hold a feature; the first has the feature's name."""
    if spec.ragged:
        return (
            StoredArray(spec.name, (), _stored_dtype(spec), (), "value"),
            StoredArray(spec.name + SHAPE, (len(spec.shape),), "int32", ("axis",)),
        )
    shape, axes = spec.fixed_shape, spec.axes
    if spec.encoding == "lower-triangle":
        shape, axes = (*shape[:-2], triangle_size(shape[-1])), (*axes[:-2], TRIANGLE_AXIS)
    values = StoredArray(spec.name, shape, _stored_dtype(spec), axes)
    if spec.encoding == "int8-per-channel":
        # float32, because in float16 the scale of a channel below 8e-6 would vanish, and the channel with it.
        return values, StoredArray(spec.name + SCALE, shape[-1:], "float32", axes[-1:])
    return (values,)


def encode(spec: FeatureSpec, values: np.ndarray | Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Turn values into what is stored.

    Every frame is encoded by itself, so that it does not matter how many come at a time.

    Args:
        spec: The feature.
        values: (n, *shape) finite values of the feature's dtype, of a ragged feature n arrays; for
            ``bfloat16`` none that overflows it, for ``lower-triangle`` only zeros above the diagonal.

    Returns:
        (n, *shape) for each of ``stored_arrays(spec)``, by its name; the flat array has as many values as
        the frames together.
    """
    if spec.ragged:
        flat = [_encode_values(spec, value).reshape(-1) for value in values]
        shapes = np.array([value.shape for value in values], np.int32).reshape(-1, len(spec.shape))
        empty = np.empty(0, _stored_dtype(spec))
        return {spec.name: np.concatenate([empty, *flat]), spec.name + SHAPE: shapes}
    values = np.asarray(values)
    if spec.encoding != "int8-per-channel":
        return {spec.name: _encode_values(spec, values)}
    within = tuple(range(1, values.ndim - 1))
    largest = abs(values).max(axis=within, keepdims=True).astype(np.float64)  # (n, 1..., C)
    scale = (largest / STEPS).astype(np.float32)
    # A subnormal scale may be rounded so far down that the largest value is beyond 127 steps.
    too_short = scale * np.float64(STEPS + 0.5) <= largest
    scale = np.where(too_short & (largest > 0), np.nextafter(scale, np.float32(np.inf)), scale)
    scale = np.minimum(scale, largest_scale("float32"))
    steps = np.rint(values / np.where(scale > 0, scale, np.float32(1)))  # (n, *)
    return {
        spec.name: steps.clip(-STEPS, STEPS).astype(np.int8),
        spec.name + SCALE: scale.reshape(len(values), values.shape[-1]),  # (n, C)
    }


def decode(spec: FeatureSpec, stored: Mapping[str, np.ndarray]) -> Any:
    """Turn what is stored into values again.

    Args:
        spec: The feature.
        stored: (n, *shape) for each of ``stored_arrays(spec)``, by its name; of a ragged feature the values
            of these n frames in one flat array, and the shapes of all n.

    Returns:
        (n, *shape) values of the feature's dtype; of a ragged feature a list of n arrays.

    Raises:
        ValueError: The shapes are not those of these values.
    """
    values = stored[spec.name]
    if spec.ragged:
        shapes, offsets = frame_index(spec, stored[spec.name + SHAPE])
        if offsets[-1] != len(values):
            raise ValueError(f"the shapes of {spec.name} add up to {offsets[-1]} values, not {len(values)}")
        pairs = zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
        return [
            decode_values(spec, values[begin:end], tuple(shape))
            for (begin, end), shape in zip(pairs, shapes.tolist(), strict=True)
        ]
    if spec.encoding == "lower-triangle":
        return decode_values(spec, values, (*values.shape[:-1], *spec.fixed_shape[-2:]))
    if spec.encoding != "int8-per-channel":
        return decode_values(spec, values, values.shape)
    scale = stored[spec.name + SCALE]  # (n, C)
    scale = scale.reshape(len(scale), *(1,) * (values.ndim - 2), scale.shape[-1])
    return np.multiply(values, scale, dtype=np.float32).astype(spec.dtype, copy=False)


def decode_values(spec: FeatureSpec, stored: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Turn stored values into an array of this shape, in an encoding without scales."""
    if spec.encoding == "bfloat16":
        return (stored.astype(np.uint32) << 16).view(np.float32).reshape(shape)
    if spec.encoding == "lower-triangle":
        values = np.zeros(shape, stored.dtype)
        values[..., np.tri(shape[-1], dtype=bool)] = stored.reshape(*shape[:-2], triangle_size(shape[-1]))
        return values
    return stored.reshape(shape)


@functools.cache
def largest_scale(dtype: str) -> np.float32:
    """Return the scale of which ``STEPS`` still fit ``dtype``."""
    largest = np.float32(np.finfo(dtype).max)
    scale = np.nextafter(largest / np.float32(STEPS), np.float32(np.inf))
    with np.errstate(over="ignore"):
        while not np.isfinite((np.float32(STEPS) * scale).astype(dtype)):
            scale = np.nextafter(scale, np.float32(0))
    return scale


def above_diagonal(values: np.ndarray) -> np.ndarray:
    """Return a mask of the values (..., N, N) above the diagonal that are not 0."""
    return (values != 0) & ~np.tri(values.shape[-1], dtype=bool)


def _encode_values(spec: FeatureSpec, values: np.ndarray) -> np.ndarray:
    """Encode values with any leading axes, in an encoding without scales."""
    if spec.encoding == "bfloat16":
        bits = values.view(np.uint32)
        to_nearest_even = 0x7FFF + ((bits >> 16) & 1)
        return ((bits + to_nearest_even) >> 16).astype(np.uint16)
    if spec.encoding == "lower-triangle":
        return values[..., np.tri(values.shape[-1], dtype=bool)]  # row by row
    return values


def _stored_dtype(spec: FeatureSpec) -> str:
    return {"bfloat16": "uint16", "int8-per-channel": "int8"}.get(spec.encoding, spec.dtype)

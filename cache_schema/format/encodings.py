"""How a feature's values become the arrays that are stored, and values again.

Readers always get values of the feature's own dtype. ``full`` stores them; ``bfloat16`` stores the upper half
of their bits; ``int8-per-channel`` stores steps of a scale that every frame and channel has for itself, since
one massive channel must not take the precision of all others.

Dimension letters: n frames, * axes of one frame, C its last axis, the channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cache_schema.format.features import FeatureSpec

SCALE = ".scale"
"""Ending of an array of scales. No feature's name can hold a dot, so the two never collide."""
STEPS = 127
"""Largest magnitude of an int8 value; -128 is left out, so that the range is symmetric."""
BFLOAT16_OVERFLOW = float.fromhex("0x1.ffp127")
"""Magnitudes from here on round to infinity in bfloat16."""
_LARGEST_SCALE = np.nextafter(np.finfo(np.float32).max / np.float32(STEPS), np.float32(0))


class StoredArray(NamedTuple):
    """One array of a clip as it lies on the disk, without its leading frame axis."""

    name: str
    """Its folder: the feature's name, or that and ``.scale``."""
    shape: tuple[int, ...]
    """Shape of one frame."""
    dtype: str
    axes: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of one frame."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


def stored_arrays(spec: FeatureSpec) -> tuple[StoredArray, ...]:
    """Say which arrays hold a feature. The first is named like it and has its shape."""
    if spec.encoding == "full":
        return (StoredArray(spec.name, spec.shape, spec.dtype, spec.axes),)
    if spec.encoding == "bfloat16":
        return (StoredArray(spec.name, spec.shape, "uint16", spec.axes),)
    return (
        StoredArray(spec.name, spec.shape, "int8", spec.axes),
        # float32, because in float16 the scale of a channel below 8e-6 would vanish, and the channel with it.
        StoredArray(spec.name + SCALE, spec.shape[-1:], "float32", spec.axes[-1:]),
    )


def encode(spec: FeatureSpec, values: np.ndarray) -> dict[str, np.ndarray]:
    """Turn values into what is stored.

    Every frame is encoded by itself, so that it does not matter how many come at a time.

    Args:
        spec: The feature.
        values: (n, *shape) finite values of the feature's dtype; for ``bfloat16`` none that overflows it.

    Returns:
        (n, *shape) for each of ``stored_arrays(spec)``, by its name.
    """
    if spec.encoding == "full":
        return {spec.name: values}
    if spec.encoding == "bfloat16":
        bits = values.view(np.uint32)
        to_nearest_even = 0x7FFF + ((bits >> 16) & 1)
        return {spec.name: ((bits + to_nearest_even) >> 16).astype(np.uint16)}
    within = tuple(range(1, values.ndim - 1))
    largest = abs(values).max(axis=within, keepdims=True).astype(np.float64)  # (n, 1..., C)
    scale = (largest / STEPS).astype(np.float32)
    # A subnormal scale may be rounded so far down that the largest value is beyond 127 steps.
    too_short = scale * np.float64(STEPS + 0.5) <= largest
    scale = np.where(too_short & (largest > 0), np.nextafter(scale, np.float32(np.inf)), scale)
    scale = np.minimum(scale, _LARGEST_SCALE)
    steps = np.rint(values / np.where(scale > 0, scale, np.float32(1)))  # (n, *)
    return {
        spec.name: steps.clip(-STEPS, STEPS).astype(np.int8),
        spec.name + SCALE: scale.reshape(len(values), -1),  # (n, C)
    }


def decode(spec: FeatureSpec, stored: Mapping[str, np.ndarray]) -> np.ndarray:
    """Turn what is stored into values again.

    Args:
        spec: The feature.
        stored: (n, *shape) for each of ``stored_arrays(spec)``, by its name.

    Returns:
        (n, *shape) values of the feature's dtype.
    """
    values = stored[spec.name]
    if spec.encoding == "full":
        return values
    if spec.encoding == "bfloat16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    scale = stored[spec.name + SCALE]  # (n, C)
    scale = scale.reshape(len(scale), *(1,) * (values.ndim - 2), scale.shape[-1])
    return np.multiply(values, scale, dtype=np.float32).astype(spec.dtype, copy=False)

"""Ragged features: values whose shape differs from frame to frame.

A clip stores all values of such a feature in one flat array, frame after frame, and beside it ``.shape``: the
shape of every frame's value. Where a frame begins follows from the shapes of those before it. Frames may
share a value: one of them stores it, the others an empty one.

Dimension letters: n frames, d axes of one frame's value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cache_schema.format.limits import FRAME_BYTES

if TYPE_CHECKING:
    from cache_schema.format.features import FeatureSpec

SHAPE = ".shape"
"""Suffix of the array of shapes. No feature's name can hold a dot, so the two never collide."""


class FrameIndex(NamedTuple):
    """Where the values of every frame are."""

    shapes: np.ndarray
    """(n, d) int64 shape of every frame's value, as readers get it."""
    offsets: np.ndarray
    """(n + 1) int64: frame i has the stored values from ``offsets[i]`` to ``offsets[i + 1]``."""


def frame_index(spec: FeatureSpec, shapes: np.ndarray) -> FrameIndex:
    """Check the shapes of frames, and return where the values of each are.

    Args:
        spec: The ragged feature.
        shapes: (n, d) shape of every frame's value.

    Raises:
        ValueError: A shape is not one that the feature can have, or is larger than any frame may be.
    """
    shapes = shapes.astype(np.int64).reshape(-1, len(spec.shape))
    for axis, length in enumerate(spec.shape):
        if (shapes[:, axis] < 0).any() or (length is not None and (shapes[:, axis] != length).any()):
            raise ValueError(f"a frame has a shape other than {shape_text(spec.shape)}")
    # As float64, in which no product overflows; empty axes count, since NumPy refuses huge ones beside them.
    sizes = np.maximum(shapes, 1).astype(np.float64).prod(axis=1)
    if (sizes * np.dtype(spec.dtype).itemsize > FRAME_BYTES).any():
        raise ValueError(f"a frame takes more than {FRAME_BYTES} bytes")
    counts = shapes.prod(axis=1)
    if spec.encoding == "lower-triangle":
        if (shapes[:, -1] != shapes[:, -2]).any():
            raise ValueError("the last two axes of a frame differ in length")
        counts = shapes[:, :-2].prod(axis=1) * triangle_size(shapes[:, -1])
    return FrameIndex(shapes, np.concatenate(([0], np.cumsum(counts))))


def wrongly_shared(spec: FeatureSpec, holders: np.ndarray, shapes: np.ndarray) -> str | None:
    """Return a frame that breaks the rule of ``FeatureSpec.stored_at``, and how; None where none does.

    Args:
        spec: A feature whose values frames share.
        holders: (n) integers: at which frame the value of each is stored.
        shapes: (n, d) shape of what every frame stores.
    """
    numbers, holders = np.arange(len(holders)), holders.astype(np.int64)
    beyond = (holders < 0) | (holders > numbers)
    of_others = holders != numbers
    follows = of_others[np.where(beyond, numbers, holders)] & of_others
    differing = [axis for axis, length in enumerate(spec.shape) if length is None]
    twice = of_others & (shapes[:, differing] != 0).any(axis=1)
    for wrong, what in (
        (beyond, "which is no frame up to it"),
        (follows, "which stores no value of its own"),
        (twice, "and stores one itself"),
    ):
        if wrong.any():
            frame = int(np.flatnonzero(wrong)[0])
            return f"frame {frame} has its value at frame {holders[frame]}, {what}"
    return None


def triangle_size(length: Any) -> Any:
    """Return the number of values in the lower triangle of a square of this length, or of these lengths."""
    return length * (length + 1) // 2


def shape_text(shape: tuple[int | None, ...]) -> str:
    """Return a shape for people, such as ``(*, 4)``; ``*`` is an axis whose length differs."""
    return str(shape).replace("None", "*")

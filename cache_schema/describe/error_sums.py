"""What comparing the values of two datasets needs: pairs of values, and sums over them.

Dimension letters: n frames of a block.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cache_schema.dataset.blocks import frame_blocks
from cache_schema.errors import RequestError
from cache_schema.format.ragged import shape_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cache_schema.dataset.reader import LatentDataset
    from cache_schema.format.features import FeatureSpec


def value_pairs(
    one: LatentDataset, other: LatentDataset, clip: str, spec: FeatureSpec
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield values (n, ...) of a clip in both datasets, in blocks; of a ragged feature, frame by frame.

    Raises:
        RequestError: A frame of a ragged feature has another shape in the other dataset.
    """
    for block in frame_blocks(one, clip, spec.name):
        a, b = one.read(clip, spec.name, block), other.read(clip, spec.name, block)
        if not spec.ragged:
            yield a, b
            continue
        for frame, (x, y) in enumerate(zip(a, b, strict=True), start=block.start):
            if x.shape != y.shape:
                raise RequestError(
                    f"clip {clip!r}, frame {frame}: {spec.name!r} has shape {shape_text(x.shape)} "
                    f"in {one.path} and {shape_text(y.shape)} in {other.path}",
                    expected="the same shape in both",
                    repair="compare datasets made from the same inputs",
                )
            yield x[None], y[None]


class MeanCosine:
    """Mean cosine over pairs of vectors, from their products and squared lengths."""

    def __init__(self) -> None:
        self.total, self.vectors = 0.0, 0

    def add(self, products: np.ndarray, a: np.ndarray, b: np.ndarray) -> None:
        """Take in pairs: a·b, a·a and b·b. The cosine is 1 where both are zero, 0 where one is."""
        lengths = np.sqrt(a) * np.sqrt(b)
        cosines = np.where(lengths > 0, products / np.where(lengths > 0, lengths, 1), (a == 0) & (b == 0))
        self.total += float(cosines.sum())
        self.vectors += len(cosines)

    @property
    def mean(self) -> float:
        """The mean; 1 of no vectors."""
        return self.total / self.vectors if self.vectors else 1.0


def relative_error(squared_error: float, squares: float) -> float:
    """Return the error relative to the values, from their sums of squares; 0 where both are zero."""
    if squares:
        return math.sqrt(squared_error) / math.sqrt(squares)
    return math.inf if squared_error else 0.0

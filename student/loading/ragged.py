"""Features whose values differ in shape from sample to sample, as batches.

On disk (FORMAT.md) such a feature is one flat array a clip, sample after sample, beside the shape of every
sample.

Dimension letters: B sample of a batch, K axis of one sample's value, V value.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


@dataclass(frozen=True)
class Ragged:
    """One feature of a batch of samples, whose values differ in shape."""

    values: Tensor
    """(V) the values of all samples, one sample after the other."""
    shapes: Tensor
    """(B, K) int64 shape of every sample's value, on the host."""

    def __len__(self) -> int:
        return len(self.shapes)

    def item(self, index: int) -> Tensor:
        """Return the value of one sample, a view of its own shape."""
        begin, end = self._ends[index], self._ends[index + 1]
        return self.values[begin:end].view(self.shapes[index].tolist())

    def items(self) -> Iterator[Tensor]:
        """Yield the value of each sample, a view of its own shape."""
        return (self.item(index) for index in range(len(self)))

    def padded(self, fill: float) -> Tensor:
        """Return all values in one tensor (B, *longest), each filled up at the end of its axes."""
        longest = self.shapes.amax(dim=0).tolist() if len(self) else [0] * self.shapes.shape[1]
        padded = self.values.new_full((len(self), *longest), fill)
        for row, value in zip(padded, self.items(), strict=True):
            row[tuple(slice(size) for size in value.shape)] = value
        return padded

    @functools.cached_property
    def _ends(self) -> list[int]:
        return [0, *itertools.accumulate(self.shapes.prod(dim=1).tolist())]


def spans(clips: np.ndarray, begins: np.ndarray, counts: np.ndarray) -> Iterator[tuple[int, slice, slice]]:
    """Group samples that lie behind one another in their clip, so that they are read together.

    Args:
        clips: (B) number of each sample's clip.
        begins: (B) its first element in the clip's array.
        counts: (B) its elements.

    Yields:
        The clip, the elements of its array, and where they go if all samples are put one after the other.
    """
    places = np.concatenate([[0], np.cumsum(counts)])
    apart = (np.diff(clips) != 0) | (begins[1:] != (begins + counts)[:-1])
    edges = [0, *(np.flatnonzero(apart) + 1).tolist(), len(clips)]
    for first, end in itertools.pairwise(edges):
        source = slice(int(begins[first]), int(begins[end - 1] + counts[end - 1]))
        if source.start < source.stop:
            yield int(clips[first]), source, slice(int(places[first]), int(places[end]))


def gather(values: Tensor, begins: np.ndarray, counts: np.ndarray, out: Tensor | None = None) -> Tensor:
    """Copy samples out of a flat array (V) of many, to one after the other, (sum of counts).

    Args:
        values: (V) on any device.
        begins: (B) the first value of each sample that is wanted.
        counts: (B) its values.
        out: Memory for the result.
    """
    pieces = zip(begins.tolist(), counts.tolist(), strict=True)
    # Always one piece at least, of which the result has its dtype.
    return torch.cat([values[:0], *(values[begin : begin + count] for begin, count in pieces)], out=out)

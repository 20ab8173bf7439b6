"""Features whose values differ in shape from sample to sample.

On disk (FORMAT.md) such a feature is one flat array a clip, sample after sample, beside the shape of every
sample. A batch holds it as ``Ragged``.

Dimension letters: N sample of a split, B sample of a batch, K axis of one sample's value, V value.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

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


class RaggedIndex(NamedTuple):
    """Where every sample of a split lies in the flat arrays of its clips."""

    shapes: np.ndarray
    """(N, K) int64 shape of every sample's value."""
    counts: np.ndarray
    """(N) int64 stored values of every sample."""
    begins: np.ndarray
    """(N) int64 place of every sample's first value in the array of its own clip."""

    @classmethod
    def of(cls, clips: Sequence[np.ndarray], *, triangle: bool = False) -> RaggedIndex:
        """Make it of the shapes that each clip stores.

        Args:
            clips: (samples, K) integers, for each clip.
            triangle: Whether the last two axes, of equal length n, are stored as their lower triangle of
                n (n + 1) / 2 values.
        """
        shapes = np.concatenate(clips).astype(np.int64)
        counts_of = [stored_counts(clip.astype(np.int64), triangle=triangle) for clip in clips]
        begins = [np.cumsum(counts) - counts for counts in counts_of]
        return cls(shapes, np.concatenate(counts_of), np.concatenate(begins))


def stored_counts(shapes: np.ndarray, *, triangle: bool = False) -> np.ndarray:
    """Return how many values are stored of samples of these shapes (N, K), as (N) int64."""
    if not triangle:
        return shapes.prod(axis=1, dtype=np.int64)
    side = shapes[:, -1]
    return shapes[:, :-2].prod(axis=1, dtype=np.int64) * (side * (side + 1) // 2)


def spans(clips: np.ndarray, begins: np.ndarray, counts: np.ndarray) -> Iterator[tuple[int, slice, slice]]:
    """Group samples that lie behind one another in their clip, so that they are read together.

    Args:
        clips: (B) number of each sample's clip.
        begins: (B) its first element in the clip's array.
        counts: (B) its elements.

    Yields:
        The clip, where its array is read, and where that goes if all samples are put one after the other.
    """
    if not len(clips):
        return
    places = np.concatenate([[0], np.cumsum(counts)])
    apart = (np.diff(clips) != 0) | (begins[1:] != (begins + counts)[:-1])
    edges = [0, *(np.flatnonzero(apart) + 1).tolist(), len(clips)]
    for first, end in itertools.pairwise(edges):
        source = slice(int(begins[first]), int(begins[end - 1] + counts[end - 1]))
        if source.start < source.stop:
            yield int(clips[first]), source, slice(int(places[first]), int(places[end]))


def gather(values: Tensor, begins: np.ndarray, counts: np.ndarray) -> Tensor:
    """Copy some samples out of a flat array of many.

    Args:
        values: (V) on any device.
        begins: (B) the first value of each sample that is wanted.
        counts: (B) its values.

    Returns:
        (sum of counts), one sample after the other.
    """
    if not len(begins):
        return values[:0].clone()
    pieces = zip(begins.tolist(), counts.tolist(), strict=True)
    return torch.cat([values[begin : begin + count] for begin, count in pieces])


def unpack_triangles(packed: Tensor, shapes: Tensor) -> Tensor:
    """Fill lower triangles up to squares, with zeros above the diagonal.

    Args:
        packed: (V) the lower triangles, row by row, of all squares of all samples.
        shapes: (B, K) int64 shapes of the samples' values, whose last two axes are equal, on the host.

    Returns:
        (sum of the shapes' products), one sample after the other.
    """
    squares, begin = [packed[:0]], 0
    for *leading, side, _ in shapes.tolist():
        count = int(np.prod(leading, dtype=np.int64))
        row, column = torch.tril_indices(side, side, device=packed.device)
        end = begin + count * len(row)
        square = packed.new_zeros(count, side, side)
        square[:, row, column] = packed[begin:end].view(count, -1)
        squares.append(square.flatten())
        begin = end
    return torch.cat(squares)

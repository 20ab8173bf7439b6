"""Reading samples from the disk, straight into buffers that are used again and again.

tensorstore reads many chunks at once in threads of its own, and compares each with its crc32c. It must not be
carried into a forked process, so there are no worker processes here.

The arrays of all clips, one behind the other, have E elements along their leading axis: one for each sample,
or, of a ragged feature, one for each stored value. Of a value that samples share, they are with the sample
that stores it.

Dimension letters: N sample of a split, B sample of a batch, E element, K axis of a ragged value.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorstore as ts
import torch

from cache_schema.errors import DatasetError
from cache_schema.format.encodings import stored_arrays
from cache_schema.format.layout import PAGE_BYTES, layout_of
from student.loading.ragged import spans

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from cache_schema.format.encodings import StoredArray
    from cache_schema.format.features import FeatureSpec
    from student.loading.dataset import Dataset

PIECE_BYTES = 256 * 2**20
"""Bytes that are read at a time where a whole array is read, if one sample is not larger."""


class Loader:
    """Reads the stored arrays of some features of the samples of some clips, by number.

    Samples are numbered in the order of the clips. The dataset is one in a folder, not a URL.
    """

    def __init__(self, dataset: Dataset, clips: Sequence[str], features: Sequence[str]) -> None:
        self.dataset, self.clips = dataset, clips
        specs = [dataset.feature(name) for name in features]
        # Of a ragged feature, the shapes are read at once, below.
        stored = [(s, array) for s in specs for array in stored_arrays(s)[: 1 if s.ragged else None]]
        self.feature_of = {array.name: spec.name for spec, array in stored}
        self.arrays = {array.name: array for _, array in stored}
        lengths = [dataset.clip(name).frames for name in clips]
        self.clip_of = np.repeat(np.arange(len(lengths)), lengths)  # (N)
        self.sample_of = np.concatenate([np.arange(length) for length in lengths])  # (N)
        self.shapes: dict[str, np.ndarray] = {}  # ragged array -> (N, K), of the value that is read
        self.ends: dict[str, np.ndarray] = {}  # array -> (N + 1), where what each sample stores ends
        self._first_of = (np.cumsum(lengths) - lengths)[self.clip_of]  # (N), the first sample of each's clip
        self._holders: dict[str, np.ndarray] = {}  # array of shared values -> (N), the sample that stores it
        for spec, array in stored:
            counts = self._read_counts(spec) if spec.ragged else np.ones(len(self.clip_of), np.int64)
            self.ends[array.name] = np.concatenate([[0], np.cumsum(counts)])
        # No cache: every sample is read once an epoch, and the operating system has one.
        self._context = ts.Context({"cache_pool": {"total_bytes_limit": 0}})
        self._open = functools.cache(self._open_checked)

    def reads_single_samples(self, name: str) -> bool:
        """Return whether one sample of an array can be read without reading much more."""
        if name in self.shapes:
            stored = len(self.stored(name, np.arange(len(self.clip_of))))
            return bool(self.ends[name][-1] * self.arrays[name].nbytes >= PAGE_BYTES * stored)
        return layout_of(self.arrays[name], 2).chunks[0] == 1

    def is_shared(self, name: str) -> bool:
        """Return whether samples share values of an array."""
        return name in self._holders

    def holders(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Return which samples store the values of samples (B), (B)."""
        return self._holders[name][rows] if name in self._holders else rows

    def stored(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Return which samples store the values of samples (B): these, or each holder once, sorted."""
        return np.unique(self._holders[name][rows]) if name in self._holders else rows

    def counts(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Return how many elements of an array samples (B) store, (B)."""
        return self.ends[name][rows + 1] - self.ends[name][rows]

    def total(self, name: str, rows: np.ndarray) -> int:
        """Return how many elements of an array samples (B) store together."""
        return int(self.counts(name, rows).sum()) if name in self.shapes else len(rows)

    def nbytes(self, name: str) -> int:
        """Return how many bytes an array of all samples takes."""
        return int(self.ends[name][-1]) * self.arrays[name].nbytes

    def empty(self, name: str, elements: int, *, pinned: bool = False) -> Tensor:
        """Return memory for some elements of an array, (elements, *shape)."""
        stored = self.arrays[name]
        return torch.empty((elements, *stored.shape), dtype=_torch_dtype(stored), pin_memory=pinned)

    def whole(self, name: str, device: torch.device | str = "cpu") -> Tensor:
        """Read an array of all samples, (E, *shape), to a device, piece by piece."""
        ends, edges = self.ends[name], self._pieces(name)
        piece = self.empty(name, int(np.diff(ends[edges]).max(initial=0)))
        everything = torch.empty((int(ends[-1]), *piece.shape[1:]), dtype=piece.dtype, device=device)
        for begin, end in itertools.pairwise(edges):
            self.fill({name: (np.arange(begin, end), piece)})
            everything[ends[begin] : ends[end]] = piece[: ends[end] - ends[begin]]
        return everything

    def fill(self, parts: Mapping[str, tuple[np.ndarray, Tensor]]) -> None:
        """Read what samples store, neighbours together, into the first places of buffers on the host.

        Args:
            parts: Array -> samples (B), and a buffer (elements of these samples or more, *shape).

        Raises:
            DatasetError: A file is not as the ledger lists it, or a chunk's checksum does not match; the
                message names the clip, the feature and the sample.
        """
        reads = []
        try:
            for name, (rows, buffer) in parts.items():
                target = ts.array(buffer.numpy().view(self.arrays[name].dtype))
                reads += [
                    target[place].write(self._open(clip, name)[source])
                    for clip, source, place in self._spans(name, rows)
                ]
            for read in reads:
                read.result()
        except (ValueError, OSError, RuntimeError) as error:
            raise self._unreadable(parts, error) from error

    def _read_counts(self, spec: FeatureSpec) -> np.ndarray:
        """Read where the values of a ragged feature lie; return how many are stored of each sample, (N)."""
        indexes = [self.dataset.frame_index(clip, spec.name) for clip in self.clips]
        shapes = np.concatenate([index.shapes for index in indexes])
        if spec.stored_at is not None:
            within = [self.dataset.stored_at(clip, spec.name) for clip in self.clips]
            self._holders[spec.name] = self._first_of + np.concatenate(within)
        self.shapes[spec.name] = shapes[self.holders(spec.name, np.arange(len(shapes)))]
        return np.concatenate([np.diff(index.offsets) for index in indexes])

    def _pieces(self, name: str) -> list[int]:
        """Return the samples at which an array is cut into pieces, from 0 to the number of samples."""
        ends, most = self.ends[name], PIECE_BYTES // self.arrays[name].nbytes
        edges = [0]
        while edges[-1] < len(self.clip_of):
            reached = np.searchsorted(ends, ends[edges[-1]] + most, side="right") - 1
            edges.append(max(int(reached), edges[-1] + 1))
        return edges

    def _spans(self, name: str, rows: np.ndarray) -> list[tuple[int, slice, slice]]:
        """Return for neighbouring samples their clip, their elements in it, and their place in a buffer."""
        ends = self.ends[name]
        begins = ends[rows] - ends[self._first_of[rows]]
        return list(spans(self.clip_of[rows], begins, self.counts(name, rows)))

    def _open_checked(self, clip: int, name: str) -> Any:
        """Open an array once the dataset has compared it with the manifest and the ledger."""
        holder = self.dataset.holder(self.feature_of[name])
        holder.check_array(self.clips[clip], name)
        folder = holder.path / "clips" / self.clips[clip] / name
        return ts.open(
            {
                "driver": "zarr3",
                "kvstore": {"driver": "file", "path": f"{folder}/"},
                # A missing chunk is an error, never a fill value; existing chunks never change.
                "fill_missing_data_reads": False,
                "recheck_cached_data": False,
            },
            read=True,
            context=self._context,
        ).result()

    def _unreadable(self, parts: Mapping[str, tuple[np.ndarray, Tensor]], error: Exception) -> DatasetError:
        """Read one by one to find the sample that cannot be read."""
        for name, (rows, _) in parts.items():
            for row in rows:
                clip, sample = self.clips[self.clip_of[row]], int(self.sample_of[row])
                try:
                    for number, source, _ in self._spans(name, np.array([row])):
                        self._open(number, name)[source].read().result()
                except (ValueError, OSError, RuntimeError) as found:
                    return DatasetError(
                        f"clip {clip!r}, sample {sample}, feature {self.feature_of[name]!r}: the stored "
                        f"bytes cannot be read: {str(found).splitlines()[0]}",
                        expected="the bytes that were committed, with the checksum of every chunk intact",
                        repair="run `teachonce repair`, then extract or fetch the clip again",
                    )
        return DatasetError(
            f"samples cannot be read together, though each can alone: {error}",
            expected="a disk that answers",
            repair="run the same command again; if it happens again, check the disk",
        )


def _torch_dtype(stored: StoredArray) -> torch.dtype:
    """Return the dtype that holds the stored bits; torch can do little with uint16."""
    return torch.from_numpy(np.empty(0, "int16" if stored.dtype == "uint16" else stored.dtype)).dtype

"""Reading samples from the disk, straight into buffers that are used again and again.

tensorstore reads many chunks at once in threads of its own, and compares each with its crc32c. It must not be
carried into a forked process, so there are no worker processes here.

Dimension letters: N sample of a split, B sample of a batch.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorstore as ts
import torch

from cache_schema.errors import DatasetError
from cache_schema.format.encodings import stored_arrays
from cache_schema.format.layout import layout_of
from student.loading.ragged import spans

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from cache_schema.dataset.reader import LatentDataset
    from cache_schema.format.encodings import StoredArray

PIECE_SAMPLES = 1024
"""Samples that are read at a time where a whole array is read."""


class Loader:
    """Reads the stored arrays of the samples of some clips, by number.

    Args:
        dataset: A dataset in a folder; not a URL.
        clips: Names of the clips, in the order in which their samples are numbered.
        features: Which features.
    """

    def __init__(self, dataset: LatentDataset, clips: Sequence[str], features: Sequence[str]) -> None:
        self.dataset, self.clips = dataset, clips
        specs = [dataset.feature(name) for name in features]
        self.feature_of = {stored.name: spec.name for spec in specs for stored in stored_arrays(spec)}
        self.arrays = {stored.name: stored for spec in specs for stored in stored_arrays(spec)}
        lengths = [dataset.clip(name).frames for name in clips]
        self.clip_of = np.repeat(np.arange(len(lengths)), lengths)  # (N)
        self.sample_of = np.concatenate([np.arange(length) for length in lengths])  # (N)
        # No cache: every sample is read once an epoch, and the operating system has one.
        self._context = ts.Context({"cache_pool": {"total_bytes_limit": 0}})
        self._open = functools.cache(self._open_checked)

    def reads_single_samples(self, name: str) -> bool:
        """Return whether the chunks of an array hold one sample each, which can then be read alone."""
        return layout_of(self.arrays[name], frames=2).chunks[0] == 1

    def empty(self, name: str, samples: int, *, pinned: bool = False) -> Tensor:
        """Return memory for some samples of an array, (samples, *shape)."""
        stored = self.arrays[name]
        return torch.empty((samples, *stored.shape), dtype=_torch_dtype(stored), pin_memory=pinned)

    def whole(self, name: str, device: torch.device | str = "cpu") -> Tensor:
        """Read an array of all samples, (N, *shape), to a device, in pieces that need little host memory."""
        samples = len(self.clip_of)
        piece = self.empty(name, min(PIECE_SAMPLES, samples))
        everything = torch.empty((samples, *piece.shape[1:]), dtype=piece.dtype, device=device)
        for begin in range(0, samples, PIECE_SAMPLES):
            rows = np.arange(begin, min(begin + PIECE_SAMPLES, samples))
            self.fill({name: piece}, rows)
            everything[begin : begin + len(rows)] = piece[: len(rows)]
        return everything

    def fill(self, buffers: Mapping[str, Tensor], rows: np.ndarray) -> None:
        """Read samples into the first places of buffers.

        Args:
            buffers: (B or more, *shape) on the host for each stored array, by its name.
            rows: (B) numbers of samples; neighbours are read together.

        Raises:
            DatasetError: A file is not as the ledger lists it, or a chunk's checksum does not match; the
                message names the clip, the feature and the sample.
        """
        together = list(spans(self.clip_of[rows], self.sample_of[rows], np.ones_like(rows)))
        reads = []
        try:
            for name, buffer in buffers.items():
                target = ts.array(_numpy(buffer, self.arrays[name]))
                reads += [
                    target[place].write(self._open(clip, name)[source]) for clip, source, place in together
                ]
            for read in reads:
                read.result()
        except (ValueError, OSError, RuntimeError) as error:
            raise self._unreadable(buffers, rows, error) from error

    def _open_checked(self, clip: int, name: str) -> Any:
        """Open an array once the dataset has compared it with the manifest and the ledger."""
        holder = self.dataset.holder(self.feature_of[name])
        holder.array(self.clips[clip], name)
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

    def _unreadable(self, buffers: Mapping[str, Tensor], rows: np.ndarray, error: Exception) -> DatasetError:
        """Read one by one to find the sample that cannot be read."""
        for name in buffers:
            for row in rows:
                clip, sample = self.clips[self.clip_of[row]], int(self.sample_of[row])
                try:
                    self._open(int(self.clip_of[row]), name)[sample].read().result()
                except (ValueError, OSError, RuntimeError) as found:
                    return DatasetError(
                        f"clip {clip!r}, sample {sample}, feature {self.feature_of[name]!r}: the stored "
                        f"bytes cannot be read: {str(found).splitlines()[0]}",
                        expected="the bytes that were committed, with the checksum of every chunk intact",
                        repair="run `teachonce repair`, then extract or fetch the clip again",
                    )
        return DatasetError(
            f"{len(rows)} samples cannot be read together, though each can alone: {error}",
            expected="a disk that answers",
            repair="run the same command again; if it happens again, check the disk",
        )


def _numpy(tensor: Tensor, stored: StoredArray) -> np.ndarray:
    """Return the memory of a tensor under the dtype that is stored."""
    return tensor.numpy().view(stored.dtype)


def _torch_dtype(stored: StoredArray) -> torch.dtype:
    """Return the dtype that holds the stored bits; torch can do little with uint16."""
    return torch.from_numpy(np.empty(0, "int16" if stored.dtype == "uint16" else stored.dtype)).dtype

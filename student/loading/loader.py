"""How frames come from the disk: straight into buffers that are used again and again.

tensorstore reads and checks (crc32c) many chunks at once in threads of its own. It must not be carried into a
forked process, so there are no worker processes here.

Dimension letters: N frame of a split, B frame of a batch.
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

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from cache_schema.dataset.reader import LatentDataset
    from cache_schema.format.encodings import StoredArray

PIECE_FRAMES = 1024
"""Frames that are read at a time on their way to where all stay."""


class Loader:
    """Reads what is stored of the frames of some clips, by number.

    Args:
        dataset: Where they are; a folder, not a URL.
        clips: Their clips, in the order of their numbers.
        features: What is read of each.
    """

    def __init__(self, dataset: LatentDataset, clips: Sequence[str], features: Sequence[str]) -> None:
        self.dataset, self.clips = dataset, clips
        specs = [dataset.feature(name) for name in features]
        self.feature_of = {stored.name: spec.name for spec in specs for stored in stored_arrays(spec)}
        self.arrays = {stored.name: stored for spec in specs for stored in stored_arrays(spec)}
        lengths = [dataset.clip(name).frames for name in clips]
        self.clip_of = np.repeat(np.arange(len(lengths)), lengths)  # (N)
        self.frame_of = np.concatenate([np.arange(length) for length in lengths])  # (N)
        # No cache: every frame is read once an epoch, and the operating system has one.
        self._context = ts.Context({"cache_pool": {"total_bytes_limit": 0}})
        self._open = functools.cache(self._open_checked)

    def reads_single_frames(self, name: str) -> bool:
        """Tell whether an array is cut so that one frame of it can be read alone."""
        return layout_of(self.arrays[name], 2).chunks[0] == 1

    def empty(self, name: str, frames: int, *, pinned: bool = False) -> Tensor:
        """Return memory for so many frames of an array, (frames, *shape)."""
        stored = self.arrays[name]
        return torch.empty((frames, *stored.shape), dtype=_torch_dtype(stored), pin_memory=pinned)

    def whole(self, name: str, device: torch.device | str = "cpu") -> Tensor:
        """Read an array of every frame there is, (N, *shape), to a device, past a small piece of the host."""
        frames = len(self.clip_of)
        piece = self.empty(name, min(PIECE_FRAMES, frames))
        everything = torch.empty((frames, *piece.shape[1:]), dtype=piece.dtype, device=device)
        for begin in range(0, frames, PIECE_FRAMES):
            rows = np.arange(begin, min(begin + PIECE_FRAMES, frames))
            self.fill({name: piece}, rows)
            everything[begin : begin + len(rows)] = piece[: len(rows)]
        return everything

    def fill(self, buffers: Mapping[str, Tensor], rows: np.ndarray) -> None:
        """Read frames into the first places of buffers.

        Args:
            buffers: (B or more, *shape) on the host for each stored array, by its name.
            rows: (B) numbers of frames; neighbours are read together.

        Raises:
            DatasetError: A file is not as the ledger lists it, or a chunk's checksum does not match; the
                message names the clip, the feature and the frame.
        """
        clips, frames = self.clip_of[rows], self.frame_of[rows]
        apart = np.flatnonzero((np.diff(clips) != 0) | (np.diff(frames) != 1)) + 1
        begins, ends = [0, *apart.tolist()], [*apart.tolist(), len(rows)]
        under_way = []
        try:
            for name, buffer in buffers.items():
                target = ts.array(_numpy(buffer, self.arrays[name]))
                for begin, end in zip(begins, ends, strict=True):
                    first = int(frames[begin])
                    source = self._open(int(clips[begin]), name)[first : first + end - begin]
                    under_way.append(target[begin:end].write(source))
            for read in under_way:
                read.result()
        except (ValueError, OSError, RuntimeError) as error:
            raise self._blame(buffers, rows, error) from error

    def _open_checked(self, clip: int, name: str) -> Any:
        """Open an array once the dataset has compared it with the manifest and the ledger."""
        self.dataset.array(self.clips[clip], name)
        folder = self.dataset.path / "clips" / self.clips[clip] / name
        return ts.open(
            {
                "driver": "zarr3",
                "kvstore": {"driver": "file", "path": f"{folder}/"},
                # A chunk that is gone is an error, never a value; what is there never changes.
                "fill_missing_data_reads": False,
                "recheck_cached_data": False,
            },
            read=True,
            context=self._context,
        ).result()

    def _blame(self, buffers: Mapping[str, Tensor], rows: np.ndarray, error: Exception) -> DatasetError:
        """Read one by one to find the frame that cannot be read."""
        for name in buffers:
            for row in rows:
                clip, frame = self.clips[self.clip_of[row]], int(self.frame_of[row])
                try:
                    self._open(int(self.clip_of[row]), name)[frame].read().result()
                except (ValueError, OSError, RuntimeError) as found:
                    return DatasetError(
                        f"clip {clip!r}, frame {frame}, feature {self.feature_of[name]!r}: the stored bytes "
                        f"cannot be read: {str(found).splitlines()[0]}",
                        expected="the bytes that were committed, with the checksum of every chunk intact",
                        repair="run `teachonce repair`, then extract or fetch the clip again",
                    )
        return DatasetError(
            f"{len(rows)} frames cannot be read together, though each can alone: {error}",
            expected="a disk that answers",
            repair="run the same command again; if it happens again, look at the disk",
        )


def _numpy(tensor: Tensor, stored: StoredArray) -> np.ndarray:
    """The memory of a tensor, under the dtype that is stored."""
    return tensor.numpy().view(stored.dtype)


def _torch_dtype(stored: StoredArray) -> torch.dtype:
    """The dtype whose bits are those that are stored; torch can do little with uint16."""
    return torch.from_numpy(np.empty(0, "int16" if stored.dtype == "uint16" else stored.dtype)).dtype

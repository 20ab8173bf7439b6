"""Samples of a latent dataset as batches of tensors, read ahead and decoded where they are used.

Stored values travel to the device as they are, in float16 or int8, and become float32 there.

Dimension letters: N sample of a split, B sample of a batch, C channel.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cache_schema.errors import RequestError
from student.device import copied, free_bytes, sent
from student.loading.decode import decoded, decoded_ragged
from student.loading.loader import Loader
from student.loading.ragged import gather

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Future

    from torch import Tensor

    from cache_schema.format.features import FeatureSpec
    from student.loading import Resident
    from student.loading.dataset import Dataset
    from student.loading.ragged import Ragged

Batch = dict[str, Any]
"""Feature -> its values of B samples: a tensor (B, *shape), or ``Ragged`` where shapes differ."""

AHEAD = 3
"""Buffers, each of a batch or a window of them, that are filled while others are in use."""


@dataclass
class _Buffer:
    """Memory on the host for the samples of a few batches."""

    stored: dict[str, Tensor]
    """(elements, *shape) by the array's name."""
    copied: torch.cuda.Event | None = None
    """When the GPU has read it to the end."""


class LatentSamples:
    """The samples of one split, by number.

    Floating-point features come as float32, integers as int64 but for bytes, (B, *shape) each; ragged ones as
    ``Ragged``.

    Args:
        dataset: A dataset in a folder; not a URL.
        split: "train", "val", or "all" of both.
        features: What is read of each sample.
        device: Where batches go.
        resident: Where the samples stay; of several processes each holds all. Features whose single samples
            cannot be read alone are small, and always in memory.

    Raises:
        RequestError: The dataset lacks a feature, or has no clip of that split, or its samples do not fit.
        DatasetError: What is held in memory cannot be read.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        features: Iterable[str],
        *,
        device: torch.device,
        resident: Resident = "none",
    ) -> None:
        self.dataset, self.device = dataset, device
        self.features = tuple(sorted(set(features)))
        dataset.require(self.features)
        self.clips = tuple(name for name in dataset.clips if split in ("all", dataset.clip(name).split))
        if not self.clips:
            raise RequestError(
                f"{dataset} has no committed clip of the split {split!r}",
                expected="at least one",
                repair=f"extract clips with --split {split} or --split all",
            )
        self._specs = [dataset.feature(name) for name in self.features]
        self._loader = Loader(dataset, self.clips, self.features)
        self.clip_of, self.sample_of = self._loader.clip_of, self._loader.sample_of  # (N), (N)
        self.lengths = np.bincount(self.clip_of)
        self._streamed = tuple(
            name
            for name in self._loader.arrays
            if resident == "none" and self._loader.reads_single_samples(name)
        )
        self._held = self._hold(resident)

    def __len__(self) -> int:
        return len(self.clip_of)

    def names(self, rows: np.ndarray) -> list[str]:
        """Return the names of samples, as ``clip number``."""
        return [f"{self.clips[self.clip_of[row]]} {self.sample_of[row]}" for row in rows]

    def read(self, rows: np.ndarray) -> Batch:
        """Return the samples of (B) numbers as a batch."""
        return next(self.stream([[rows]]))[1]

    def batches(self, order: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, Batch]]:
        """Yield numbers (B) and batch, read ahead; the last may be smaller."""
        return self.stream([[order[begin : begin + size]] for begin in range(0, len(order), size)])

    def stream(
        self, windows: Sequence[Sequence[np.ndarray]], *, recycle: bool = False
    ) -> Iterator[tuple[np.ndarray, Batch]]:
        """Yield numbers (B) and batch for each batch of each window.

        Args:
            windows: Batches that are fetched together; no sample is in two batches of one window.
            recycle: Use a batch's memory again once the next one is asked for. On a CPU, fresh memory costs
                more than all else that happens to a batch.

        Raises:
            DatasetError: A sample cannot be read; the message names it.
        """
        most = self._most(windows)
        coming = iter(windows)
        memory = self._memory(windows) if recycle else {}
        with ThreadPoolExecutor(1, thread_name_prefix="loader") as pool:
            reads: deque[Future[tuple[_Buffer, Sequence[np.ndarray]]]] = deque()
            for _ in range(min(AHEAD, len(windows))):
                reads.append(pool.submit(self._fill, self._buffer(most), next(coming)))
            while reads:
                buffer, window = reads.popleft().result()
                fetched = self._to_device(buffer)
                for number, rows in enumerate(window, start=1):
                    batch = self._batch(fetched, rows, window, memory)
                    following = next(coming, None) if number == len(window) else None
                    if following is not None:
                        # The batch is a copy: its buffer may be filled again while the batch is in use.
                        reads.append(pool.submit(self._fill, buffer, following))
                    yield rows, batch

    def _hold(self, resident: Resident) -> dict[str, Tensor]:
        """Read every array that is not streamed to where it stays."""
        held = [name for name in self._loader.arrays if name not in self._streamed]
        where = self.device if resident == "device" else torch.device("cpu")
        if resident != "none":
            needed, free = sum(map(self._loader.nbytes, held)), free_bytes(where)
            if needed > free:
                raise RequestError(
                    f"{len(self):,} samples take {needed:,} bytes, and {where} has {free:,} bytes free",
                    expected="room for all of them, besides what training takes",
                    repair="keep them elsewhere with --resident none"
                    + (" or --resident ram" if where.type == "cuda" else ""),
                )
        return {name: self._loader.whole(name, where) for name in held}

    def _most(self, windows: Sequence[Sequence[np.ndarray]]) -> dict[str, int]:
        """Return how many elements of each array that passes the host a window has at most."""
        held = (name for name, values in self._held.items() if not _is_on(values, self.device))
        fetched = [_fetched(window) for window in windows]
        return {
            name: max(
                (self._loader.total(name, self._loader.stored(name, rows)) for rows in fetched), default=0
            )
            for name in (*self._streamed, *held)
        }

    def _buffer(self, most: Mapping[str, int]) -> _Buffer:
        pinned = self.device.type == "cuda"
        return _Buffer({name: self._loader.empty(name, count, pinned=pinned) for name, count in most.items()})

    def _fill(self, buffer: _Buffer, window: Sequence[np.ndarray]) -> tuple[_Buffer, Sequence[np.ndarray]]:
        """Put the samples of a window into a buffer, in the loader's thread."""
        if buffer.copied is not None:
            buffer.copied.synchronize()
        loader, fetched = self._loader, _fetched(window)
        loader.fill({name: (loader.stored(name, fetched), buffer.stored[name]) for name in self._streamed})
        for name in buffer.stored.keys() & self._held.keys():
            rows = loader.stored(name, fetched)
            into = buffer.stored[name][: loader.total(name, rows)]
            if name in loader.shapes:
                gather(self._held[name], loader.ends[name][rows], loader.counts(name, rows), out=into)
            else:
                torch.index_select(self._held[name], 0, torch.from_numpy(rows), out=into)
        return buffer, window

    def _to_device(self, buffer: _Buffer) -> dict[str, Tensor]:
        """Send a buffer to the device; on a CPU it is the buffer itself."""
        sent = {name: values.to(self.device, non_blocking=True) for name, values in buffer.stored.items()}
        if self.device.type == "cuda":
            buffer.copied = copied(self.device)
        return sent

    def _batch(
        self,
        fetched: Mapping[str, Tensor],
        rows: np.ndarray,
        window: Sequence[np.ndarray],
        memory: Mapping[str, Tensor],
    ) -> Batch:
        """Pick a batch's samples out of what was fetched and what is held on the device, and decode them."""
        loader, whole = self._loader, _fetched(window)
        numbers = self._index(rows)
        places = np.searchsorted(whole, rows) if len(window) > 1 else rows
        index = self._index(places) if len(window) > 1 else numbers
        stored = {}
        for name in loader.arrays:
            if name in fetched and len(window) == 1 and not loader.is_shared(name):
                stored[name] = fetched[name][: loader.total(name, rows)]
            elif name not in loader.shapes:
                values, chosen = (fetched[name], index) if name in fetched else (self._held[name], numbers)
                stored[name] = values.index_select(0, chosen)
            else:
                holders = loader.holders(name, rows)
                counts, begins = loader.counts(name, holders), loader.ends[name][holders]
                if name in fetched:
                    there = loader.stored(name, whole)  # sorted
                    begins = np.cumsum(loader.counts(name, there))[np.searchsorted(there, holders)] - counts
                values = fetched[name] if name in fetched else self._held[name]
                stored[name] = gather(values, begins, counts)
        return {spec.name: self._decoded(spec, stored, rows, memory) for spec in self._specs}

    def _decoded(
        self, spec: FeatureSpec, stored: Mapping[str, Tensor], rows: np.ndarray, memory: Mapping[str, Tensor]
    ) -> Tensor | Ragged:
        if spec.ragged:
            shapes = torch.from_numpy(self._loader.shapes[spec.name][rows])
            return decoded_ragged(spec, stored[spec.name], shapes)
        return decoded(spec, stored, memory[spec.name][: len(rows)] if memory else None)

    def _memory(self, windows: Sequence[Sequence[np.ndarray]]) -> dict[str, Tensor]:
        most = max((len(rows) for window in windows for rows in window), default=0)
        return {
            spec.name: torch.empty((most, *spec.fixed_shape), device=self.device)
            for spec in self._specs
            if not spec.ragged
        }

    def _index(self, rows: np.ndarray) -> Tensor:
        return sent(torch.from_numpy(rows), self.device)


def _fetched(window: Sequence[np.ndarray]) -> np.ndarray:
    """Return a window's samples in the order in which they are read: sorted if batches are picked later."""
    return window[0] if len(window) == 1 else np.sort(np.concatenate(window))


def _is_on(values: Tensor, device: torch.device) -> bool:
    return values.device.type == device.type and device.type != "cpu"

"""Frames of a latent dataset as batches of tensors, read ahead and decoded where they are used.

What is stored travels to the device as it is, in float16 or int8, and becomes float32 there.

Dimension letters: N frame of a split, B frame of a batch, C channel.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from cache_schema.errors import RequestError
from cache_schema.format.encodings import SCALE
from student.loading.loader import Loader

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Future

    from torch import Tensor

    from cache_schema.dataset.reader import LatentDataset
    from cache_schema.format.features import FeatureSpec
    from student.runs.config import Mask, Resident

    Batch = dict[str, Tensor]

FRAMES_WITHOUT_ORION_TRUTH = 10
"""ORION's reading of the truth begins at this frame of a clip."""
AHEAD = 3
"""Buffers, each of a batch or a window of them, that are filled while others are in use."""


@dataclass
class _Buffer:
    """Memory on the host for the frames of a few batches."""

    stored: dict[str, Tensor]
    """(frames, *shape) by the array's name."""
    copied: torch.cuda.Event | None = None
    """When the GPU has read it to the end."""


class LatentFrames:
    """The frames of one split, by number.

    Floating-point features come as float32, integers as int64, (B, *shape) each.

    Args:
        dataset: Where they are; a folder, not a URL.
        split: "train", "val", or "all" of both.
        features: What is read of each frame.
        mask: Which frames have a truth.
        device: Where batches go.
        resident: Where the frames stay: on the disk (``none``), in host memory (``ram``), or on the
            ``device``; of several processes each holds all. Features whose single frames cannot be read
            alone are small, and always in memory.

    Raises:
        RequestError: The dataset lacks a feature, or has no clip of that split, or its frames do not fit.
        DatasetError: What is held cannot be read.
    """

    def __init__(
        self,
        dataset: LatentDataset,
        split: str,
        features: Iterable[str],
        *,
        mask: Mask,
        device: torch.device,
        resident: Resident = "none",
    ) -> None:
        self.dataset, self.device, self.mask = dataset, device, mask
        self.features = tuple(sorted({*features, *(("frame_index",) if mask == "orion" else ())}))
        dataset.require(self.features)
        self.clips = tuple(name for name in dataset.clips if split in ("all", dataset.clip(name).split))
        if not self.clips:
            raise RequestError(
                f"{dataset.backend} has no committed clip of the split {split!r}",
                expected="at least one",
                repair=f"extract clips with --split {split} or --split all",
            )
        self._specs = [dataset.feature(name) for name in self.features]
        self._loader = Loader(dataset, self.clips, self.features)
        self.clip_of, self.frame_of = self._loader.clip_of, self._loader.frame_of  # (N), (N)
        self.lengths = np.bincount(self.clip_of)
        self._streamed = tuple(
            name
            for name in self._loader.arrays
            if resident == "none" and self._loader.reads_single_frames(name)
        )
        self._held = self._hold(resident)

    def __len__(self) -> int:
        return len(self.clip_of)

    def names(self, rows: np.ndarray) -> list[str]:
        """Say which frames these are, as ``clip frame``."""
        return [f"{self.clips[self.clip_of[row]]} {self.frame_of[row]}" for row in rows]

    def read(self, rows: np.ndarray) -> Batch:
        """Return the frames of (B) numbers as a batch."""
        return next(self.stream([[rows]]))[1]

    def batches(self, order: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, Batch]]:
        """Yield numbers (B) and batch, read ahead; the last may be smaller."""
        return self.stream([[order[begin : begin + size]] for begin in range(0, len(order), size)])

    def stream(
        self, windows: Sequence[Sequence[np.ndarray]], *, recycle: bool = False
    ) -> Iterator[tuple[np.ndarray, Batch]]:
        """Yield numbers (B) and batch for each batch of each window.

        Args:
            windows: Batches that are fetched together; no frame is in two batches of one window.
            recycle: Use a batch's memory again once the next one is asked for. On a CPU, fresh memory costs
                more than all else that happens to a batch.

        Raises:
            DatasetError: A frame cannot be read; the message names it.
        """
        most = max((sum(map(len, window)) for window in windows), default=0)
        coming = iter(windows)
        memory = self._memory(windows) if recycle else {}
        with ThreadPoolExecutor(1, thread_name_prefix="loader") as pool:
            under_way: deque[Future[tuple[_Buffer, Sequence[np.ndarray]]]] = deque()
            for _ in range(min(AHEAD, len(windows))):
                under_way.append(pool.submit(self._fill, self._buffer(most), next(coming)))
            while under_way:
                buffer, window = under_way.popleft().result()
                fetched = self._to_device(buffer)
                for number, rows in enumerate(window, start=1):
                    batch = self._batch(fetched, rows, window, memory)
                    following = next(coming, None) if number == len(window) else None
                    if following is not None:
                        # The batch is a copy: the disk may go on while it is worked with.
                        under_way.append(pool.submit(self._fill, buffer, following))
                    yield rows, batch

    def _hold(self, resident: Resident) -> dict[str, Tensor]:
        """Read every array that is not streamed, (N, *shape), to where it stays."""
        held = [name for name in self._loader.arrays if name not in self._streamed]
        where = self.device if resident == "device" else torch.device("cpu")
        try:
            return {name: self._loader.whole(name, where) for name in held}
        except RuntimeError as error:
            if "memory" not in str(error):
                raise
            needed = len(self) * sum(self._loader.arrays[name].nbytes for name in held)
            raise RequestError(
                f"{len(self):,} frames do not fit into the memory of {where}: {error}",
                expected=f"room for {needed / 1e9:.1f} GB",
                repair="keep them elsewhere with --resident ram or --resident none",
            ) from error

    def _buffer(self, frames: int) -> _Buffer:
        on_host = (
            *self._streamed,
            *(name for name, held in self._held.items() if not _there(held, self.device)),
        )
        pinned = self.device.type == "cuda"
        return _Buffer({name: self._loader.empty(name, frames, pinned=pinned) for name in on_host})

    def _fill(self, buffer: _Buffer, window: Sequence[np.ndarray]) -> tuple[_Buffer, Sequence[np.ndarray]]:
        """Put the frames of a window into a buffer, in the loader's thread."""
        if buffer.copied is not None:
            buffer.copied.synchronize()
        rows = _fetched(window)
        self._loader.fill({name: buffer.stored[name] for name in self._streamed}, rows)
        index = torch.from_numpy(rows)
        for name in buffer.stored.keys() & self._held.keys():
            torch.index_select(self._held[name], 0, index, out=buffer.stored[name][: len(rows)])
        return buffer, window

    def _to_device(self, buffer: _Buffer) -> dict[str, Tensor]:
        """Send a buffer; on a CPU it is the buffer itself."""
        sent = {name: values.to(self.device, non_blocking=True) for name, values in buffer.stored.items()}
        if self.device.type == "cuda":
            buffer.copied = torch.cuda.Event()
            buffer.copied.record()
        return sent

    def _batch(
        self,
        fetched: Mapping[str, Tensor],
        rows: np.ndarray,
        window: Sequence[np.ndarray],
        memory: Mapping[str, Tensor],
    ) -> Batch:
        """Pick a batch's frames out of what was fetched and what is held, and decode them."""
        if len(window) == 1:
            stored = {name: values[: len(rows)] for name, values in fetched.items()}
        else:
            places = self._index(np.searchsorted(_fetched(window), rows))
            stored = {name: values.index_select(0, places) for name, values in fetched.items()}
        index = self._index(rows)
        for name in self._held.keys() - fetched.keys():
            stored[name] = self._held[name].index_select(0, index)
        batch = {
            spec.name: decoded(spec, stored, memory[spec.name][: len(rows)] if memory else None)
            for spec in self._specs
        }
        if self.mask == "orion":
            _forget_first_truths(batch)
        return batch

    def _memory(self, windows: Sequence[Sequence[np.ndarray]]) -> dict[str, Tensor]:
        most = max((len(rows) for window in windows for rows in window), default=0)
        return {spec.name: torch.empty((most, *spec.fixed_shape), device=self.device) for spec in self._specs}

    def _index(self, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(rows).to(self.device, non_blocking=True)


def decoded(spec: FeatureSpec, stored: Mapping[str, Tensor], into: Tensor | None = None) -> Tensor:
    """Turn what is stored into values, on the device where it is.

    Args:
        spec: The feature.
        stored: (B, *shape) for each of ``stored_arrays(spec)``, by its name.
        into: (B, *shape) float32 memory for floating-point values; new memory by default.

    Returns:
        (B, *shape) float32, int64 or bool, in memory of its own.
    """
    values = stored[spec.name]
    if spec.encoding == "bfloat16":
        values = values.view(torch.bfloat16)
    if values.is_floating_point() or spec.encoding == "int8-per-channel":
        into = torch.empty(values.shape, device=values.device) if into is None else into
        into.copy_(values)
        if spec.encoding == "int8-per-channel":
            scale = stored[spec.name + SCALE]  # (B, C)
            into.mul_(scale.view(len(scale), *(1,) * (values.dim() - 2), -1))
        return into
    if values.dtype == torch.bool:
        return values.clone()
    whole = values.to(torch.int64, copy=True)
    return whole & 0xFFFF if spec.dtype == "uint16" else whole


def _fetched(window: Sequence[np.ndarray]) -> np.ndarray:
    """Frames of a window in the order in which they are read: sorted where batches are picked out later."""
    return window[0] if len(window) == 1 else np.sort(np.concatenate(window))


def _there(values: Tensor, device: torch.device) -> bool:
    return values.device.type == device.type and device.type != "cpu"


def _forget_first_truths(batch: Batch) -> None:
    known = batch["frame_index"] >= FRAMES_WITHOUT_ORION_TRUTH  # (B)
    if "ego_trajectory_mask" in batch:
        batch["ego_trajectory_mask"] = batch["ego_trajectory_mask"] & known[:, None]
    if "ego_trajectory" in batch:
        batch["ego_trajectory"] = batch["ego_trajectory"] * known[:, None, None]

"""Frames of a latent dataset as batches of tensors.

Dimension letters: N frame of a split, B frame of a batch.
"""

from __future__ import annotations

import functools
import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch

from cache_schema.errors import RequestError
from cache_schema.layout import PAGE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

    from cache_schema.store import LatentDataset
    from student.config import Mask

    Batch = dict[str, Tensor]

FRAMES_WITHOUT_ORION_TRUTH = 10
"""ORION's reading of the truth begins at this frame of a clip."""
HOLD_BYTES = 4 * 2**30
"""A split's large features are held in memory if they are no larger than this together; small ones always
are, since reading one frame of them means reading their whole clip."""
READERS = 8
"""Threads that read."""


class LatentFrames:
    """The frames of one split, by number.

    Floating-point features come as float32, integers as int64, (B, *shape) each.

    Args:
        dataset: Where they are.
        split: "train", "val", or "all" of both.
        features: What is read of each frame.
        mask: Which frames have a truth.
        device: Where batches go.
        hold_bytes: Hold features of a page or more a frame in memory if they are no larger than this.

    Raises:
        RequestError: The dataset lacks a feature, or has no clip of that split.
    """

    def __init__(
        self,
        dataset: LatentDataset,
        split: str,
        features: Iterable[str],
        *,
        mask: Mask,
        device: torch.device,
        hold_bytes: int = HOLD_BYTES,
    ) -> None:
        self.dataset, self.device, self.mask = dataset, device, mask
        self.features = tuple(sorted({*features, *(("frame_index",) if mask == "orion" else ())}))
        dataset.require(self.features)
        self.clips = tuple(name for name in dataset.clips if split in ("all", dataset.clip(name).split))
        if not self.clips:
            raise RequestError(
                f"{dataset.path} has no committed clip of the split {split!r}",
                expected="at least one",
                repair=f"extract clips with --split {split} or --split all",
            )
        lengths = [dataset.clip(name).frames for name in self.clips]
        self.clip_of = np.repeat(np.arange(len(lengths)), lengths)  # (N)
        self.frame_of = np.concatenate([np.arange(length) for length in lengths])  # (N)
        self._pool = ThreadPoolExecutor(READERS)
        nbytes = {name: dataset.feature(name).nbytes for name in self.features}
        large = tuple(name for name in self.features if nbytes[name] >= PAGE_BYTES)
        self._streamed = large if len(self) * sum(nbytes[name] for name in large) > hold_bytes else ()
        self._held = {name: self._whole(name) for name in self.features if name not in self._streamed}

    def __len__(self) -> int:
        return len(self.clip_of)

    def names(self, rows: np.ndarray) -> list[str]:
        """Say which frames these are, as ``clip frame``."""
        return [f"{self.clips[self.clip_of[row]]} {self.frame_of[row]}" for row in rows]

    def read(self, rows: np.ndarray) -> Batch:
        """Return the frames of (B) numbers as a batch."""
        arrays = {name: values[rows] for name, values in self._held.items()} | self._stream(rows)
        batch = {name: self._tensor(arrays[name]) for name in self.features}
        if self.mask == "orion":
            _forget_first_truths(batch)
        return batch

    def batches(self, order: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, Batch]]:
        """Yield numbers (B) and batch, one read ahead of the other; the last may be smaller."""
        pieces = [order[begin : begin + size] for begin in range(0, len(order), size)]
        with ThreadPoolExecutor(1) as ahead:
            coming = ahead.submit(self.read, pieces[0])
            for piece, following in zip(pieces, [*pieces[1:], None], strict=True):
                batch = coming.result()
                if following is not None:
                    coming = ahead.submit(self.read, following)
                yield piece, batch

    def _whole(self, feature: str) -> np.ndarray:
        read = functools.partial(self.dataset.read, feature=feature)
        return np.concatenate(list(self._pool.map(read, self.clips)))  # (N, *shape)

    def _stream(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Read what is not held, (B, *shape) each; every clip and feature once."""
        specs = {name: self.dataset.feature(name) for name in self._streamed}
        arrays = {name: np.empty((len(rows), *spec.shape), spec.dtype) for name, spec in specs.items()}
        clips = self.clip_of[rows]  # (B)

        def fill(job: tuple[str, int]) -> None:
            name, clip = job
            places = np.flatnonzero(clips == clip)
            arrays[name][places] = self.dataset.read(self.clips[clip], name, self.frame_of[rows[places]])

        for _ in self._pool.map(fill, itertools.product(self._streamed, np.unique(clips))):
            pass
        return arrays

    def _tensor(self, values: np.ndarray) -> Tensor:
        # Converted on the device, so that half as many bytes travel to it.
        tensor = torch.from_numpy(values).to(self.device)
        if tensor.is_floating_point():
            return tensor.float()
        return tensor if tensor.dtype == torch.bool else tensor.long()


def shuffled(frames: int, *, seed: int, epoch: int) -> np.ndarray:
    """Return the numbers of all frames in the order of one epoch, (N)."""
    return np.random.default_rng([seed, epoch]).permutation(frames)


def _forget_first_truths(batch: Batch) -> None:
    known = batch["frame_index"] >= FRAMES_WITHOUT_ORION_TRUTH  # (B)
    if "ego_trajectory_mask" in batch:
        batch["ego_trajectory_mask"] = batch["ego_trajectory_mask"] & known[:, None]
    if "ego_trajectory" in batch:
        batch["ego_trajectory"] = batch["ego_trajectory"] * known[:, None, None]

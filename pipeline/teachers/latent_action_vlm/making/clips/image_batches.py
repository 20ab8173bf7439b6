"""Batches of transitions, whose images are decoded while the batch before is learned from.

Dimension letters: B batch, H rows and W columns of images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from pipeline.teachers.latent_action_vlm.making.clips.observations import read_image
from pipeline.teachers.latent_action_vlm.making.clips.transitions import condition_tokens
from pipeline.teachers.latent_action_vlm.making.training_loop import Remembered, prefetched

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor

    from pipeline.teachers.latent_action_vlm.making.clips.transitions import Transitions


class TransitionBatch(NamedTuple):
    """Some transitions, where they are learned from."""

    images: Tensor
    """(B, 2, H, W, 3) uint8 of the earlier and the later frame."""
    condition: Tensor
    """(B, 3, CONDITION_WIDTH) float32."""
    motion: Tensor
    """(B, 2) float32 of ``MOTION``, of mean 0 and variance 1."""


class Scales(NamedTuple):
    """By which numbers come to mean 0 and variance 1."""

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> Scales:
        """Measure samples (S, numbers). What does not vary stays as large as it is."""
        std = values.std(0)
        return cls(values.mean(0), np.where(std > 0, std, 1.0))


class ImageBatches:
    """Reads batches of transitions.

    Args:
        transitions: The samples.
        condition: Scales of their conditions.
        motion: Scales of their motion.
        size: Rows and columns that images are shrunk to.
        in_memory: Images that stay decoded.
        device: Where batches are wanted.
    """

    def __init__(
        self,
        transitions: Transitions,
        condition: Scales,
        motion: Scales,
        *,
        size: int,
        in_memory: int,
        device: torch.device | str,
    ) -> None:
        self.transitions, self.device = transitions, device
        self._tokens = torch.from_numpy(
            condition_tokens(transitions.condition, transitions.command, *condition)
        )
        self._motion = torch.from_numpy((transitions.motion - motion.mean) / motion.std).float()
        self._image = Remembered(lambda number: read_image(transitions.images[number], size), in_memory)

    def read(self, batches: Iterable[np.ndarray]) -> Iterator[TransitionBatch]:
        """Yield the transitions of every batch of sample numbers.

        Raises:
            ClipError: An image is not whole.
        """
        for rows, images in prefetched(batches, self._pair):
            pairs = torch.from_numpy(np.stack(images))
            parts = pairs, self._tokens[rows], self._motion[rows]
            yield TransitionBatch(*(part.to(self.device) for part in parts))

    def _pair(self, row: int) -> np.ndarray:
        earlier, later = self.transitions.pairs[row]
        return np.stack([self._image(int(earlier)), self._image(int(later))])

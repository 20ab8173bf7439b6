"""The strip of the front cameras alone: all that a camera-only student sees through."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

from cache_schema.errors import RequestError
from cache_schema.vocabulary.latent_actions import CAMERA_STRIP, camera_strip
from pipeline.bench2drive.jpeg import read_jpeg
from pipeline.bench2drive.strip import COLUMNS, cut, resized

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from torch import Tensor

    from cache_schema.vocabulary.observation import Observation


class CameraStripPerception:
    """Cuts and joins images as extraction does for ``--inputs camera_strip``; implements ``Perception``.

    Args:
        size: Width and height of the strip.
    """

    cameras = tuple(COLUMNS)

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self.features = (camera_strip(*size),)
        self.identity = {"perception": f"{CAMERA_STRIP} of {size[0]}x{size[1]} pixels"}
        self._pool = ThreadPoolExecutor(len(COLUMNS), "image")

    def prepare(self, observation: Observation) -> np.ndarray:
        """Return the strip, (height, width, 3) uint8; see ``Perception``."""
        missing = [camera for camera in COLUMNS if camera not in observation.jpegs]
        if missing:
            raise RequestError(
                f"an observation of {observation.clip!r} has no image of {', '.join(missing)}",
                expected=f"images of {', '.join(COLUMNS)}",
                repair="send the images of these cameras",
            )
        jpegs = [observation.jpegs[camera] for camera in COLUMNS]
        images = dict(zip(COLUMNS, self._pool.map(read_jpeg, jpegs), strict=True))
        return resized(cut(images.__getitem__), self.size)

    def collate(self, inputs: Sequence[np.ndarray | None]) -> Tensor:
        """Stack one strip a slot, (B, height, width, 3) uint8; black for an idle slot."""
        width, height = self.size
        batch = torch.zeros(len(inputs), height, width, 3, dtype=torch.uint8)
        for row, strip in zip(batch, inputs, strict=True):
            if strip is not None:
                row.copy_(torch.from_numpy(strip))
        return batch

    def begin(self, slots: int) -> None:
        """Remember nothing."""

    def step(self, batch: Tensor, state: None) -> tuple[dict[str, Tensor], None]:
        """Return the strips as they are, on the host."""
        return {CAMERA_STRIP: batch}, state

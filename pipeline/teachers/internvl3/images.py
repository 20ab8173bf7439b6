"""Images as InternVL3 gets them: one tile, resized to a square.

Source: spec Drive-KD 3, pixels. The processor of the ``-hf`` repositories does otherwise: it tiles, and
resizes with another library.

Dimension letters: n image, S side of the square.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from cache_schema.errors import ClipError
from cache_schema.storage.atomic_io import sha256_bytes
from cache_schema.vocabulary.attention import PIXEL_MEAN, PIXEL_STD

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.questions.sample import ImageFile

IMAGES_KEPT = 64
"""Resized images that are kept for the next question about them: six cameras of several clips, 40 MB."""


@dataclass(frozen=True)
class PixelRecipe:
    """How an image becomes numbers."""

    size: int
    """S."""

    def describe(self) -> dict[str, Any]:
        """Return what a teacher's identity says of it, as JSON values."""
        return {
            "size": self.size,
            "resample": "bicubic",
            "mean": list(PIXEL_MEAN),
            "std": list(PIXEL_STD),
            "tiles": 1,
        }

    def resize(self, image: Image.Image) -> Tensor:
        """Return an image as (S, S, 3) uint8, its proportions lost."""
        square = image.convert("RGB").resize((self.size, self.size), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(square))

    def normalise(self, pixels: Tensor) -> Tensor:
        """Turn (n, S, S, 3) uint8 into (n, 3, S, S) float32."""
        mean, std = (pixels.new_tensor(x, dtype=torch.float32) for x in (PIXEL_MEAN, PIXEL_STD))
        return ((pixels / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


class ImageReader:
    """Reads and resizes images, each once while questions about it follow each other; for several threads."""

    def __init__(self, recipe: PixelRecipe) -> None:
        self._recipe = recipe
        self._kept: OrderedDict[str, Future[Tensor]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, images: tuple[ImageFile, ...]) -> Tensor:
        """Return (n, S, S, 3) uint8.

        Raises:
            ClipError: An image is missing, broken, or not the one that its clip was opened with.
        """
        size = self._recipe.size
        return torch.stack([*map(self._read, images)]) if images else torch.zeros(0, size, size, 3).byte()

    def _read(self, image: ImageFile) -> Tensor:
        with self._lock:
            kept = self._kept.get(image.sha256)
            if kept is None:
                mine = self._kept[image.sha256] = Future()
                if len(self._kept) > IMAGES_KEPT:
                    self._kept.popitem(last=False)
            else:
                self._kept.move_to_end(image.sha256)
        if kept is not None:
            return kept.result()
        try:
            mine.set_result(self._recipe.resize(decode(image)))
        except BaseException as error:
            with self._lock:
                self._kept.pop(image.sha256, None)
            mine.set_exception(error)
            raise
        return mine.result()


def decode(image: ImageFile) -> Image.Image:
    """Return an image, decoded.

    Raises:
        ClipError: It is missing, broken, or not the one that its clip was opened with.
    """
    try:
        content = image.file.read_bytes()
    except OSError as error:
        raise ClipError(
            f"the image {image.file} cannot be read: {error.strerror}",
            expected="every image that a question names",
            repair="restore the image",
        ) from error
    if sha256_bytes(content) != image.sha256:
        raise ClipError(
            f"the image {image.file} changed since its clip was opened",
            expected=f"the file with sha256 {image.sha256}",
            repair="leave the images alone while they are extracted, and run it again",
        )
    try:
        decoded = Image.open(io.BytesIO(content))
        decoded.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ClipError(
            f"the image {image.file} is broken: {error}",
            expected="a whole JPEG or PNG",
            repair="restore the image",
        ) from error
    return decoded

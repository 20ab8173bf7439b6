"""Camera images as ORION sees them.

The recipe (spec: ORION teacher, section 3.1): shrink with PIL's antialiased bicubic to 640x360 in uint8, drop
the top 40 rows, stretch the height to 640 with a bilinear resize in float32, normalise. The first half keeps
uint8, and takes a CPU as long as decoding: a teacher on a GPU does all of it there, to the same bits.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from pipeline.bench2drive.jpeg import CAMERA_SIZE
from pipeline.teachers.orion.resize import resize

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ImagePreprocessing:
    """How 1600x900 camera images become the network's input."""

    resized: tuple[int, int] = (640, 360)
    """Width and height after the antialiased bicubic resize."""
    crop_top: int = 40
    """Rows dropped at the top of the resized image."""
    network: tuple[int, int] = (640, 640)
    """Width and height of the network's input: the crop is stretched to it."""
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """Subtracted from R, G, B in 0..255."""
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    """Divides R, G, B afterwards."""

    @property
    def cropped(self) -> tuple[int, int]:
        """Width and height after resize and crop."""
        return self.resized[0], self.resized[1] - self.crop_top

    @property
    def _kept(self) -> tuple[float, float, float, float]:
        """Part of a camera image that is kept: left, upper, right, lower. The filter also sees rows above."""
        width, height = CAMERA_SIZE
        return 0, self.crop_top * height / self.resized[1], width, height

    def shrink(self, image: Image.Image) -> np.ndarray:
        """Resize and crop a 1600x900 image to (3, h, w) uint8; channels keep their order."""
        shrunk = image.resize(self.cropped, Image.Resampling.BICUBIC, self._kept)
        return np.ascontiguousarray(np.asarray(shrunk).transpose(2, 0, 1))

    def shrink_on_device(self, images: Tensor) -> Tensor:
        """Resize and crop (..., 900, 1600, 3) uint8 to the bits of ``shrink``: (..., 3, h, w)."""
        return resize(images.movedim(-1, -3), self.cropped, self._kept).contiguous()

    def normalise(self, images: Tensor) -> Tensor:
        """Stretch and normalise (..., 3, h, w) uint8 RGB to (..., 3, H, W) float32."""
        *lead, channels, height, width = images.shape
        stretched = F.interpolate(
            images.reshape(-1, channels, height, width).float(), self.network[::-1], mode="bilinear"
        )
        mean, std = _per_channel(self.mean, images.device), _per_channel(self.std, images.device)
        return ((stretched - mean) / std).reshape(*lead, *stretched.shape[1:])

    def intrinsic(self, camera: np.ndarray) -> np.ndarray:
        """Follow (..., 3, 3) camera matrices of the raw image through resize, crop and stretch; float64."""
        width, height = self.cropped
        x = self.resized[0] / CAMERA_SIZE[0] * self.network[0] / width
        y = self.resized[1] / CAMERA_SIZE[1] * self.network[1] / height
        shift = -self.crop_top * self.network[1] / height
        # The teacher was trained with this matrix rounded to float32, applied to float64 intrinsics.
        pixels = np.array([[x, 0.0, 0.0], [0.0, y, shift], [0.0, 0.0, 1.0]], dtype=np.float32)
        return pixels.astype(np.float64) @ camera


@functools.cache
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return a constant (3, 1, 1). Cached, because a copy to a GPU waits for everything that runs there."""
    return torch.tensor(values, device=device).view(3, 1, 1)

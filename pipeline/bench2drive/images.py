"""Camera images as ORION sees them.

The recipe (spec: ORION teacher, section 3.1): shrink with PIL's antialiased bicubic to 640x360 in uint8, drop
the top 40 rows, stretch the height to 640 with a bilinear resize in float32, normalise. The first half runs
on the CPU beside the decoder and keeps uint8, so that one eighth of the bytes travel to the GPU; the second half
runs there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError

from cache_schema.errors import ClipError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

CAMERA_SIZE = (1600, 900)
"""Width and height of every Bench2Drive camera image."""


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

    def load(self, path: Path) -> np.ndarray:
        """Read one JPEG; return (3, h, w) uint8 RGB, resized and cropped.

        Raises:
            ClipError: The file is missing, not a whole JPEG, or not 1600x900.
        """
        try:
            with Image.open(path) as image:
                image.load()
                pixels = image.convert("RGB")
        except FileNotFoundError as error:
            raise ClipError(
                f"the image {path} does not exist",
                expected="a JPEG of every camera for every annotated frame",
                repair="unpack the clip's archive again, or leave the clip out",
            ) from error
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            raise ClipError(
                f"the image {path} cannot be decoded: {error}",
                expected="a whole JPEG file",
                repair="unpack the clip's archive again, or leave the clip out",
            ) from error
        if pixels.size != CAMERA_SIZE:
            raise ClipError(
                f"the image {path} is {pixels.width}x{pixels.height}",
                expected="1600x900, to which resize and intrinsics are tied",
                repair="use Bench2Drive's original images",
            )
        return self.shrink(np.asarray(pixels))

    def shrink(self, pixels: np.ndarray) -> np.ndarray:
        """Resize and crop (900, 1600, 3) uint8 to (3, h, w) uint8; channels keep their order."""
        image = Image.fromarray(pixels).resize(self.resized, Image.Resampling.BICUBIC)
        return np.ascontiguousarray(np.asarray(image)[self.crop_top :].transpose(2, 0, 1))

    def normalise(self, images: Tensor) -> Tensor:
        """Stretch and normalise (..., 3, h, w) uint8 RGB to (..., 3, H, W) float32."""
        lead = images.shape[:-3]
        width, height = self.network
        stretched = F.interpolate(images.flatten(0, -4).float(), (height, width), mode="bilinear")
        mean = torch.tensor(self.mean, device=images.device).view(3, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(3, 1, 1)
        return ((stretched - mean) / std).unflatten(0, lead)

    def intrinsic(self, camera: np.ndarray) -> np.ndarray:
        """Follow a (3, 3) camera matrix of the raw image through resize, crop and stretch; float32."""
        resized = np.diag([self.resized[0] / CAMERA_SIZE[0], self.resized[1] / CAMERA_SIZE[1], 1.0])
        cropped = np.array([[1.0, 0, 0], [0, 1, -self.crop_top], [0, 0, 1]])
        width, height = self.cropped
        stretched = np.diag([self.network[0] / width, self.network[1] / height, 1.0])
        return (stretched @ cropped @ resized @ camera).astype(np.float32)

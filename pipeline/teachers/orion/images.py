"""Camera images as ORION sees them.

The recipe (spec: ORION teacher, section 3.1): shrink with PIL's antialiased bicubic to 640x360 in uint8, drop
the top 40 rows, stretch the height to 640 with a bilinear resize in float32, normalise. The first half runs
on the CPU beside the decoder and keeps uint8, so that one eighth of the bytes travel to the GPU, where the
second half runs.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError

from cache_schema.errors import ClipError
from pipeline.bench2drive.geometry import IMAGE_HEIGHT, IMAGE_WIDTH

try:
    import simplejpeg
except ImportError:  # an extra: `pip install teachonce[fast]`
    simplejpeg = None

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

UNDECODABLE = (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError)
"""What the decoders raise for files that are no whole JPEG, besides OSError."""
CAMERA_SIZE = (IMAGE_WIDTH, IMAGE_HEIGHT)
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
                if image.size != CAMERA_SIZE:
                    raise ClipError(
                        f"the image {path} is {image.width}x{image.height}",
                        expected="1600x900, to which resize and intrinsics are tied",
                        repair="use Bench2Drive's original images",
                    )
                return self.shrink(_decoded(path, image))
        except FileNotFoundError as error:
            raise ClipError(
                f"the image {path} does not exist",
                expected="a JPEG of every camera for every annotated frame",
                repair="unpack the clip's archive again, or leave the clip out",
            ) from error
        except (OSError, *UNDECODABLE) as error:
            raise ClipError(
                f"the image {path} cannot be decoded: {error}",
                expected="a whole JPEG file",
                repair="unpack the clip's archive again, or leave the clip out",
            ) from error

    def shrink(self, image: Image.Image) -> np.ndarray:
        """Resize and crop a 1600x900 image to (3, h, w) uint8; channels keep their order."""
        # Only the rows that stay are made; whatever lies above them still shines in, as without the box.
        top = self.crop_top * image.height / self.resized[1]
        box = (0, top, image.width, image.height)
        shrunk = image.resize(self.cropped, Image.Resampling.BICUBIC, box)
        return np.ascontiguousarray(np.asarray(shrunk).transpose(2, 0, 1))

    def normalise(self, images: Tensor) -> Tensor:
        """Stretch and normalise (..., 3, h, w) uint8 RGB to (..., 3, H, W) float32."""
        *lead, channels, height, width = images.shape
        stretched = F.interpolate(
            images.reshape(-1, channels, height, width).float(), self.network[::-1], mode="bilinear"
        )
        mean, std = _a_channel(self.mean, images.device), _a_channel(self.std, images.device)
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
def _a_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """A constant (3, 1, 1). Kept, because to copy it to a GPU is to wait for all that runs there."""
    return torch.tensor(values, device=device).view(3, 1, 1)


def _decoded(path: Path, image: Image.Image) -> Image.Image:
    """Decode an opened JPEG; both decoders yield the same pixels."""
    if simplejpeg is not None and image.mode == "RGB":
        return Image.fromarray(simplejpeg.decode_jpeg(path.read_bytes(), colorspace="RGB"))
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")

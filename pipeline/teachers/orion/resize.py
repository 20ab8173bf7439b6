"""Pillow's antialiased bicubic resize, bit for bit, as matrix products on any device.

Pillow resizes 8-bit images in integers: along one axis after the other, a pixel becomes a weighted sum whose
weights have ``WEIGHT_BITS`` fractional digits, rounded half up and cut to 0..255. Such sums need 31 bits, so
that products of float64 matrices are exact in whatever order a device adds. A pixel depends on few others:
cut in blocks, the products are 5 GFLOP a frame of six images, a few milliseconds even on a GPU that computes
float64 at a 64th of the speed of float32.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

WEIGHT_BITS = 22
"""Fractional digits of Pillow's weights: of 32 bits, 8 are for the pixel and 2 for sums that overshoot."""
BLOCK = 64
"""Pixels of the result that one product computes."""


class _Block(NamedTuple):
    """Adjacent pixels of the result, along one axis."""

    first: int
    last: int
    """They depend on the pixels of the image from ``first`` to before ``last``."""
    weights: Tensor
    """(last - first, pixels) float64, multiples of 2^-22."""


def resize(images: Tensor, size: tuple[int, int], box: tuple[float, float, float, float]) -> Tensor:
    """Resize images as ``Image.resize(size, BICUBIC, box)`` does, which starts with the horizontal axis.

    (Since version 13 Pillow starts with the vertical axis where the height shrinks much more than the width.)

    Args:
        images: (..., H, W) uint8.
        size: Width w and height h of the result.
        box: Part of the images that is resized: left, upper, right, lower. The filter sees beyond it.

    Returns:
        (..., h, w) uint8, on the device of the images.
    """
    left, upper, right, lower = box
    height, width = images.shape[-2:]
    columns = _blocks(width, size[0], left, right, images.device)
    rows = _blocks(height, size[1], upper, lower, images.device)
    return _weighted_sums(_weighted_sums(images, columns).mT, rows).mT


def _weighted_sums(pixels: Tensor, blocks: tuple[_Block, ...]) -> Tensor:
    """Map (..., length) uint8 to (..., result) uint8."""

    def of(block: _Block) -> Tensor:
        needed = pixels[..., block.first : block.last]
        sums = needed.to(torch.float64, memory_format=torch.contiguous_format) @ block.weights
        return sums.add_(0.5).clamp_(0, 255).byte()  # which rounds down

    return torch.cat([of(block) for block in blocks], dim=-1)


@functools.cache
def _blocks(length: int, result: int, start: float, stop: float, device: torch.device) -> tuple[_Block, ...]:
    """Return the weights by which the pixels from start to stop, of ``length``, become ``result`` pixels.

    Cached, because a copy to a GPU waits for everything that runs there.
    """
    # Pillow itself says which: an image of 32-bit integers that is 2^22 at one pixel becomes this pixel's
    # weights, rounded as they are for 8 bits. Row i of these is the image for pixel i.
    impulses = Image.fromarray(np.eye(length, dtype=np.int32) << WEIGHT_BITS)
    resized = impulses.resize((result, length), Image.Resampling.BICUBIC, (start, 0, stop, length))
    weights = np.asarray(resized) / 2.0**WEIGHT_BITS
    blocks = []
    for begin in range(0, result, BLOCK):
        part = weights[:, begin : begin + BLOCK]
        used = np.flatnonzero(part.any(axis=1))
        first, last = int(used[0]), int(used[-1]) + 1
        blocks.append(_Block(first, last, torch.from_numpy(part[first:last].copy()).to(device)))
    return tuple(blocks)

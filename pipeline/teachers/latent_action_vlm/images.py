"""Camera images as Qwen2.5-VL reads them: patches of 14x14 pixels, four of which become a token.

Source: spec LatentVLA 3.

Dimension letters: C image, H and W pixels, h and w tokens of an image.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

PATCH, MERGED, REPEATED = 14, 2, 2
"""Pixels of a patch's side; patches of a token's side; times that a still image is repeated."""
TOKEN = PATCH * MERGED
"""Pixels of a token's side."""
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Mean and deviation of R, G, B in 0..1, those of CLIP."""


def shrink(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """Resize an image to a width and height, as Qwen2.5-VL's own program does: (3, H, W) uint8."""
    resized = image.resize(size, Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))


def grid_of(size: tuple[int, int]) -> tuple[int, int]:
    """Return the rows and columns of tokens (h, w) of an image of a width and height."""
    width, height = size
    return height // TOKEN, width // TOKEN


def patches(images: Tensor) -> Tensor:
    """Normalise images and cut them, in the order in which the model merges patches to tokens.

    Args:
        images: (C, 3, H, W) uint8 RGB; both sizes are multiples of ``TOKEN``.

    Returns:
        (C * 4hw, 3 * REPEATED * PATCH * PATCH) float32.
    """
    count, channels, height, width = images.shape
    mean, std = _per_channel(MEAN, images.device), _per_channel(STD, images.device)
    normalised = (images.float() / 255 - mean) / std
    h, w = grid_of((width, height))
    cut = normalised.view(count, channels, h, MERGED, PATCH, w, MERGED, PATCH)
    cut = cut.permute(0, 2, 5, 3, 6, 1, 4, 7)  # image, token's row and column, patch's in it, channel, pixel
    repeated = cut.unsqueeze(6).expand(*cut.shape[:6], REPEATED, PATCH, PATCH)
    return repeated.reshape(count * h * w * MERGED**2, channels * REPEATED * PATCH**2)


def pooled(tokens: Tensor, grid: tuple[int, int], cells: tuple[int, int]) -> Tensor:
    """Average the tokens of each image over rows and columns of cells.

    Args:
        tokens: (..., C, h * w, D).
        grid: h and w.
        cells: Rows and columns of cells, which divide h and w.

    Returns:
        (..., C * rows * columns, D), image by image and row by row.
    """
    (height, width), (rows, columns) = grid, cells
    shape = (*tokens.shape[:-2], rows, height // rows, columns, width // columns, tokens.shape[-1])
    return tokens.view(shape).mean(dim=(-4, -2)).flatten(-4, -2)


@functools.cache
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return a constant (3, 1, 1). Cached, because a copy to a GPU waits for everything that runs there."""
    return torch.tensor(values, device=device).view(3, 1, 1)

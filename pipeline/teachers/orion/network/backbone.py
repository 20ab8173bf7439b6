"""Image backbone EVA-02: a plain vision transformer without neck, class token or final norm.

Source: spec ORION teacher 1.1.
Dimension letters: N images, H W token rows and columns, h w rows and columns of windows, s pixels along a
patch's side, D width.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.teachers.orion.network.kernels.add_product import add_product, adds_in_place
from pipeline.teachers.orion.network.kernels.gated_norm import gated_norm
from pipeline.teachers.orion.network.kernels.window_attention import one_kernel_attends, window_attention

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.teachers.orion.network.config import BackboneConfig

PRETRAINED_GRID = 14
"""Rows and columns of the stored position embedding."""

ROPE_SPAN = 16
"""Rotary positions of an axis run from 0 up to this, whatever its number of tokens."""

EPS = 1e-6

ALIGNED: int = 64
"""Hidden channels of an MLP are padded to a multiple of this: rows of 128 bytes in 16 bits. Tensor cores of
Hopper GPUs load rows of a multiple of 16 bytes; 2730 channels run at a third of the speed of 2752."""

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines, each (H, W, 1, head width)."""


def rotary_table(grid: int, window: int, head_width: int) -> Rotation:
    """Return the rotary tables of an image of ``grid`` x ``grid`` tokens; positions restart in every window.

    The first half of a head's channels rotates with the row, the second with the column; adjacent channels
    are a pair.
    """
    pairs = head_width // 4
    # The device is named so that the tables are real numbers even in a model built on the meta device.
    frequencies = 10000.0 ** (-torch.arange(pairs, device="cpu") / pairs)
    positions = torch.arange(grid, device="cpu") % window / window * ROPE_SPAN
    angles = torch.outer(positions, frequencies).repeat_interleave(2, dim=-1)
    rows = angles[:, None].expand(-1, grid, -1)
    columns = angles[None].expand(grid, -1, -1)
    turns = torch.cat((rows, columns), dim=-1)[:, :, None]
    return turns.cos(), turns.sin()


def apply_rotary(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotate each pair of adjacent channels (a, b) to (a cos - b sin, b cos + a sin)."""
    cos, sin = rotation
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * cos + torch.stack((-b, a), dim=-1).flatten(-2) * sin


class Attention(nn.Module):
    """Multi-head attention with rotary positions within square windows; keys have no bias.

    A window that reaches beyond the image is padded with zero tokens, which are attended to: the released
    weights were trained so. Nothing is projected for them. Their keys are zero, their own outputs are
    dropped, and all values have the same bias: as attention weights sum to one, it is added to the output.
    """

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        """Map (N, H, W, D) to (N, H, W, D)."""
        return self.proj(self.mix(x, rotation) + self.v_bias)

    def mix(self, x: Tensor, rotation: Rotation) -> Tensor:
        """Return the values (N, H, W, D) that each token of x (N, H, W, D) attends to, without their bias."""
        q, k, v = F.linear(x, self.q_proj.weight, self.q_bias), self.k_proj(x), self.v_proj(x)
        if self.window < x.shape[1] and one_kernel_attends(q, self.heads):
            return window_attention(q, k, v, rotation, self.window)
        q, k, v = (t.unflatten(-1, (self.heads, -1)) for t in (q, k, v))
        q, k, v = (
            window_partition(t, self.window)
            for t in (apply_rotary(q, rotation), apply_rotary(k, rotation), v)
        )
        shape = q.shape  # (N, h, w, size, size, heads, head width)
        q, k, v = (t.flatten(3, 4).flatten(0, 2).transpose(1, 2) for t in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(shape)
        return window_unpartition(mixed, *x.shape[1:3]).flatten(3)


def window_partition(x: Tensor, size: int) -> Tensor:
    """Cut (N, H, W, ...) into windows (N, h, w, size, size, ...), the last of them padded with zeros."""
    _, height, width, *rest = x.shape
    if height % size or width % size:  # padding by nothing would copy
        x = F.pad(x, (0, 0) * len(rest) + (0, -width % size, 0, -height % size))
    return x.unflatten(2, (-1, size)).unflatten(1, (-1, size)).transpose(2, 3)


def window_unpartition(windows: Tensor, height: int, width: int) -> Tensor:
    """Undo ``window_partition``: windows (N, h, w, size, size, ...) to (N, H, W, ...)."""
    return windows.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :height, :width]


class GatedMLP(nn.Module):
    """SwiGLU with a layer norm on its hidden channels.

    Its weights may be wider than the hidden channels (``padded``): the channels beyond are zero, the norm
    does not see them, and nothing changes but the speed.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.w1 = nn.Linear(width, hidden)
        self.w2 = nn.Linear(width, hidden)
        self.ffn_ln = nn.LayerNorm(hidden, eps=EPS)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        return self.w3(self.gate(x))

    def gate(self, x: Tensor) -> Tensor:
        """Map (..., D) to normed hidden channels."""
        norm = self.ffn_ln
        return gated_norm(self.w1(x), self.w2(x), norm.weight, norm.bias, norm.eps)

    def padded(self, leaf: str, weight: Tensor) -> Tensor:
        """Return one of its weights with zeros for channels up to a multiple of ``ALIGNED``.

        Args:
            leaf: Name of the weight in this module.
            weight: Its released value, on any device.
        """
        beyond = -self.hidden % ALIGNED
        if not beyond or leaf.startswith("ffn_ln") or leaf == "w3.bias":
            return weight
        columns = leaf == "w3.weight"
        return F.pad(weight, (0, beyond) if columns or weight.ndim == 1 else (0, 0, 0, beyond))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: BackboneConfig, window: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=EPS)
        self.attn = Attention(config.width, config.heads, window)
        self.norm2 = nn.LayerNorm(config.width, eps=EPS)
        self.mlp = GatedMLP(config.width, config.mlp_width)

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        """Map (N, H, W, D) to (N, H, W, D)."""
        x = x + self.attn(self.norm1(x), rotation)
        return x + self.mlp(self.norm2(x))

    def add_to(self, x: Tensor, bias: Tensor, rotation: Rotation) -> Tensor:
        """Compute the same for x + bias in place, by fewer passes over the memory.

        Args:
            x: (N, H, W, D), to which the products of matrices are added.
            bias: (D), the biases of the blocks before.
            rotation: As in ``forward``.

        Returns:
            (D), the biases up to here. The output is the sum of x and them.
        """
        add_product(x, self.attn.mix(self.norm1(x + bias), rotation), self.attn.proj.weight)
        bias = bias + self.attn.proj(self.attn.v_bias)
        add_product(x, self.mlp.gate(self.norm2(x + bias)), self.mlp.w3.weight)
        return bias + self.mlp.w3.bias


class PatchEmbedding(nn.Module):
    """One token a patch."""

    def __init__(self, patch_size: int, width: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(3, width, patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, 3, height, width) to (N, H, W, D)."""
        size = self.patch_size
        # A matrix product, because cuDNN convolutions round to TF32 by default.
        patches = images.to(self.proj.weight.dtype)
        patches = patches.unflatten(3, (-1, size)).unflatten(2, (-1, size))  # (N, 3, H, s, W, s)
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3)
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class Backbone(nn.Module):
    """Image to tokens."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.grid = config.grid
        self.patch_embed = PatchEmbedding(config.patch_size, config.width)
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + PRETRAINED_GRID**2, config.width))
        # A window as large as the image is the whole image.
        self.windows = [
            config.grid if block in config.global_blocks else config.window for block in range(config.depth)
        ]
        self.blocks = nn.ModuleList(Block(config, window) for window in self.windows)
        self.apply_block: Callable[[Block, Tensor, Rotation], Tensor] = Block.__call__
        """Computes a block; it may be compiled."""
        self.add_block: Callable[[Block, Tensor, Tensor, Rotation], Tensor] = Block.add_to
        """Does so in place; it may be compiled."""
        self.sizes = sorted(set(self.windows))
        for size in self.sizes:
            cos, sin = rotary_table(config.grid, size, config.width // config.heads)
            self.register_buffer(f"cos_{size}", cos, persistent=False)
            self.register_buffer(f"sin_{size}", sin, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (N, 3, height, width) to tokens (N, H, W, D)."""
        x = self.patch_embed(images)
        x = x + self._positions.to(x.dtype)
        rotations = {
            size: (self.get_buffer(f"cos_{size}").to(x), self.get_buffer(f"sin_{size}").to(x))
            for size in self.sizes
        }
        blocks = [cast("Block", block) for block in self.blocks]
        if adds_in_place(x):
            bias = x.new_zeros(x.shape[-1])
            for block, size in zip(blocks, self.windows, strict=True):
                bias = self.add_block(block, x, bias, rotations[size])
            return x + bias
        for block, size in zip(blocks, self.windows, strict=True):
            x = self.apply_block(block, x, rotations[size])
        return x

    @cached_property
    def _positions(self) -> Tensor:
        """The pretrained position embedding, resized to (1, H, W, D); its class token is dropped.

        It is resized at the first frame, when the weights have to be in place.
        """
        square = self.pos_embed[:, 1:].unflatten(1, (PRETRAINED_GRID, PRETRAINED_GRID)).permute(0, 3, 1, 2)
        resized = F.interpolate(square, (self.grid, self.grid), mode="bicubic")
        return resized.permute(0, 2, 3, 1)

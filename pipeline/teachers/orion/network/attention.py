"""Decoder layers of both heads: post-norm, positions added to queries and keys but not to values.

Source: spec ORION teacher 1.4.
Dimension letters: B slots, Q queries, K and L keys, N image tokens, M remembered queries, E width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from pipeline.teachers.orion.network.config import DecoderConfig


class Attention(nn.Module):
    """Multi-head attention with packed input weights.

    Where ``core`` is a type of 16 bits, queries, keys and values are rounded to it.
    """

    core: torch.dtype | None = None

    def __init__(self, width: int, heads: int, *, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width)) if bias else None
        self.out_proj = nn.Linear(width, width, bias=bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Attend from (B, Q, E) to (B, K, E); ``mask`` (Q, K) is True where a query attends to a key."""
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, weight, bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x, weight, bias in zip((query, key, value), self.in_proj_weight.chunk(3), biases, strict=True)
        )
        if self.core is not None:
            q, k, v = (x.to(self.core) for x in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(mixed.transpose(1, 2).flatten(2).to(query.dtype))


def feed_forward(width: int, hidden: int) -> nn.Sequential:
    """Return two linear layers with a ReLU between them."""
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))


class DecoderLayer(nn.Module):
    """Self-attention with temporal memory, attention to image tokens, feed-forward."""

    def __init__(self, width: int, config: DecoderConfig) -> None:
        super().__init__()
        self.self_attention = Attention(width, config.heads)
        self.self_norm = nn.LayerNorm(width)
        self.cross_attention = Attention(width, config.heads)
        self.cross_norm = nn.LayerNorm(width)
        self.ffn = feed_forward(width, config.ffn_width)
        self.ffn_norm = nn.LayerNorm(width)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        *,
        image: Tensor,
        image_keys: Tensor,
        memory: Tensor,
        memory_keys: Tensor,
        mask: Tensor,
    ) -> Tensor:
        """Map (B, Q, E) to (B, Q, E); see ``Decoder``."""
        query = x + positions
        keys = torch.cat((query, memory_keys), dim=1)
        values = torch.cat((x, memory), dim=1)
        x = self.self_norm(x + self.self_attention(query, keys, values, mask=mask))
        x = self.cross_norm(x + self.cross_attention(x + positions, image_keys, image))
        return self.ffn_norm(x + self.ffn(x))


class Decoder(nn.Module):
    """A stack of decoder layers that share image, memory and positions."""

    def __init__(self, width: int, config: DecoderConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(width, config) for _ in range(config.layers))

    def forward(
        self,
        queries: Tensor,
        positions: Tensor,
        *,
        image: Tensor,
        image_positions: Tensor,
        memory: Tensor,
        memory_positions: Tensor,
        mask: Tensor,
    ) -> Tensor:
        """Decode queries.

        Args:
            queries: (B, Q, E) contents.
            positions: (B, Q, E) of the queries.
            image: (B, N, E) image tokens.
            image_positions: (B, N, E).
            memory: (B, M, E) queries of past frames, which queries attend to as well as to each other.
            memory_positions: (B, M, E).
            mask: (Q, Q + M), True where a query attends to a key.

        Returns:
            (B, Q, E) of the last layer.
        """
        image_keys = image + image_positions
        memory_keys = memory + memory_positions
        for layer in self.layers:
            queries = layer(
                queries,
                positions,
                image=image,
                image_keys=image_keys,
                memory=memory,
                memory_keys=memory_keys,
                mask=mask,
            )
        return queries


class CrossDecoder(nn.Module):
    """One layer of cross-attention and feed-forward. Its attention has no biases."""

    def __init__(self, width: int, heads: int, ffn_width: int) -> None:
        super().__init__()
        self.attention = Attention(width, heads, bias=False)
        self.attention_norm = nn.LayerNorm(width)
        self.ffn = feed_forward(width, ffn_width)
        self.ffn_norm = nn.LayerNorm(width)

    def forward(
        self,
        queries: Tensor,
        memory: Tensor,
        *,
        memory_positions: Tensor | None = None,
        plus: Tensor | None = None,
    ) -> Tensor:
        """Attend from queries to a memory.

        Args:
            queries: (B, Q, E).
            memory: (B, K, E).
            memory_positions: (B, K, E), added to keys.
            plus: (B, L, E); then the memory is every sum of a row of it and a row of ``memory``.

        Returns:
            (B, Q, E).
        """
        keys = memory if memory_positions is None else memory + memory_positions
        mixed = self.attention(queries, keys, memory)
        if plus is not None:
            # The score of a sum is the sum of the scores of its two rows, so the softmax over all K * L sums
            # is the product of two. Without biases the values add up as well.
            mixed = mixed + self.attention(queries, plus, plus)
        x = self.attention_norm(queries + mixed)
        return self.ffn_norm(x + self.ffn(x))


def attention_mask(extra: int, queries: int, memory: int) -> Tensor:
    """Return the mask of self-attention with memory: only extra queries, which come first, see extra queries.

    Returns:
        (extra + queries, extra + queries + memory) bool, True where a query attends to a key.
    """
    mask = torch.ones(extra + queries, extra + queries + memory, dtype=torch.bool, device="cpu")
    mask[extra:, :extra] = False
    return mask

"""A transformer decoder that may be asked all its queries at once, or some after others.

Dimension letters: B batch, Q query, P query asked before, M token of the memory, H width, A head, D width of
a head (H / A).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

KeysValues = tuple[Tensor, Tensor]
"""What is attended to: keys and values, (B, A, ., D) each."""


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm_self, self.norm_cross, self.norm_inner = (nn.LayerNorm(width) for _ in range(3))
        self.self_qkv = nn.Linear(width, 3 * width)
        self.self_out = nn.Linear(width, width)
        self.cross_q = nn.Linear(width, width)
        self.cross_kv = nn.Linear(width, 2 * width)
        self.cross_out = nn.Linear(width, width)
        self.inner1, self.inner2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def read(self, memory: Tensor) -> KeysValues:
        """Return the keys and values of a memory (B, M, H)."""
        key, value = (self._split(x) for x in self.cross_kv(memory).chunk(2, dim=-1))
        return key, value

    def forward(
        self, x: Tensor, memory: KeysValues, past: KeysValues | None, visible: Tensor | None
    ) -> tuple[Tensor, KeysValues]:
        """Map queries (B, Q, H) to (B, Q, H), and return the keys and values of all queries so far."""
        query, key, value = (self._split(part) for part in self.self_qkv(self.norm_self(x)).chunk(3, dim=-1))
        if past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        x = x + self._dropped(self.self_out(self._attend(query, (key, value), visible)))
        query = self._split(self.cross_q(self.norm_cross(x)))
        x = x + self._dropped(self.cross_out(self._attend(query, memory, None)))
        inner = self._dropped(F.gelu(self.inner1(self.norm_inner(x))))
        return x + self._dropped(self.inner2(inner)), (key, value)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _attend(self, query: Tensor, to: KeysValues, visible: Tensor | None) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, *to, attn_mask=visible, dropout_p=dropout)
        return mixed.transpose(1, 2).flatten(2)

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class Decoder(nn.Module):
    """Pre-norm layers of attention among queries, attention to a memory, and a feed-forward network.

    Args:
        layers: Number of layers.
        width: Of queries and memory, H.
        heads: Attention heads; they divide the width.
        inner: Inner width of the feed-forward networks.
        dropout: While training.
    """

    def __init__(self, layers: int, width: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Layer(width, heads, inner, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def read(self, memory: Tensor) -> list[KeysValues]:
        """Return what every layer reads of a memory (B, M, H)."""
        return [cast("_Layer", layer).read(memory) for layer in self.layers]

    def forward(
        self,
        queries: Tensor,
        memory: Sequence[KeysValues],
        past: Sequence[KeysValues] | None = None,
        visible: Tensor | None = None,
    ) -> tuple[Tensor, list[KeysValues]]:
        """Decode queries (B, Q, H) to (B, Q, H).

        Args:
            queries: What is asked now.
            memory: By ``read``.
            past: What this returned when other queries were asked before.
            visible: (Q, P + Q) bool, where a query looks at those before and now; None for everywhere.

        Returns:
            The decoded queries, and the past of those that may be asked next.
        """
        x, kept = queries, []
        for number, layer in enumerate(self.layers):
            x, own = layer(x, memory[number], None if past is None else past[number], visible)
            kept.append(own)
        return self.norm(x), kept

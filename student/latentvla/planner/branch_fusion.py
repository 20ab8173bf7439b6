"""A transformer over the tokens of both branches, camera image and bird's-eye view, after a stage of each.

Source: spec LatentVLA 4.

Dimension letters: B batch, N token, C channel, A head, R row, S column.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INITIAL_STD = 0.02
"""Standard deviation of linear layers' first weights."""


class _SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.key = nn.Linear(width, width)
        self.query = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, C) to (B, N, C)."""
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )  # (B, A, N, C / A)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        return F.dropout(self.proj(mixed.transpose(1, 2).flatten(2)), self.dropout, self.training)


class _Block(nn.Module):
    def __init__(self, width: int, inner: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = _SelfAttention(width, heads, dropout)
        self.mlp = nn.Sequential(
            nn.Linear(width, inner), nn.ReLU(), nn.Linear(inner, width), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class BranchFusion(nn.Module):
    """Lets the cells of a camera image and of a bird's-eye view attend to one another.

    Args:
        width: Channels C of both.
        cells: Cells of both maps together.
        inner: Width of the feed-forward networks, as a multiple of the channels.
        blocks: Transformer blocks.
        heads: Attention heads; they divide the channels.
        dropout: While training.
    """

    def __init__(
        self, width: int, cells: int, *, inner: int, blocks: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.pos_emb = nn.Parameter(torch.zeros(1, cells, width))
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(_Block(width, inner * width, heads, dropout) for _ in range(blocks)))
        self.ln_f = nn.LayerNorm(width)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=INITIAL_STD)
                nn.init.zeros_(module.bias)

    def forward(self, image: Tensor, bev: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, C, R, S) of either branch to as many cells of as many channels."""
        tokens = torch.cat([cells.flatten(2) for cells in (image, bev)], dim=2).transpose(1, 2)  # (B, N, C)
        x = self.ln_f(self.blocks(self.drop(self.pos_emb + tokens))).transpose(1, 2)  # (B, C, N)
        count = image.shape[2] * image.shape[3]
        return x[..., :count].unflatten(2, image.shape[2:]), x[..., count:].unflatten(2, bev.shape[2:])

"""Mixing a vision-language model's embeddings into what the planner reads (spec LatentVLA 5 C).

Dimension letters: B batch, N cell of the bird's-eye view, L embedding, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from student.latentvla.embeddings.pooling import AttentionPool
from student.latentvla.prediction import Embeddings


class Pools(nn.Module):
    """Pools a vision-language model's states to a few embeddings.

    Args:
        states: Width of a state.
        width: Width D of an embedding.
        visual: Embeddings of its states at image tokens.
        action: Embeddings of its states from which it tells the codes; each starts from the mean of the
            visual ones.
        heads: Attention heads.
    """

    def __init__(self, states: int, width: int, *, visual: int, action: int, heads: int) -> None:
        super().__init__()
        self.visual = AttentionPool(visual, states, width, heads)
        self.action = AttentionPool(action, states, width, heads)

    def forward(self, visual: Tensor, action: Tensor) -> Embeddings:
        """Pool states at image tokens and at codes, (B, ., width of a state) each."""
        seen = self.visual(visual)
        return Embeddings(seen, self.action(action, seen.mean(dim=1)))


class Fusion(nn.Module):
    """Lets the cells of a bird's-eye view attend to embeddings. At first, it adds nothing.

    Args:
        width: Of cells and embeddings, D.
        heads: Attention heads; they divide the width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        nn.init.zeros_(self.attention.out_proj.weight)
        nn.init.zeros_(self.attention.out_proj.bias)

    def forward(self, cells: Tensor, embeddings: Embeddings) -> Tensor:
        """Map cells (B, N, D) to cells."""
        tokens = torch.cat(embeddings, dim=1)  # (B, L, D)
        return cells + self.attention(self.norm(cells), tokens, tokens, need_weights=False)[0]

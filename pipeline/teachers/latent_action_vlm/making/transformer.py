"""The transformers of a latent action model, under the names of UniVLA's weights (spec LatentVLA, section 2).

Dimension letters: B batch, F frames, S tokens of a frame, M model width, I width of the tokens that come in.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PERIOD = 10_000.0
"""Base of the wavelengths of the sin/cos table, as in the first transformer."""


class Attention(nn.Module):
    """Multi-head attention of a sequence to itself; queries, keys and values have no bias."""

    def __init__(self, width: int, heads: int, *, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Attend along the last but one axis of (..., S, M)."""
        query, key, value = (
            project(tokens).unflatten(-1, (self.heads, -1)).transpose(-2, -3)
            for project in (self.to_q, self.to_k, self.to_v)
        )
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return self.to_out(attended.transpose(-2, -3).flatten(-2))


def _mlp(width: int) -> nn.Sequential:
    # The third place is that of a dropout, which no published model uses.
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Identity(), nn.Linear(4 * width, width))


class SpatialBlock(nn.Module):
    """Attention within a frame, then an MLP; both pre-norm and residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.spatial_attn = Attention(width, heads)
        self.ffn = _mlp(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Transform (B, F, S, M)."""
        tokens = tokens + self.spatial_attn(self.norm1(tokens))
        return tokens + self.ffn(self.norm2(tokens))


class SpatioTemporalBlock(nn.Module):
    """Attention within a frame, of a token to itself in the frames so far, then an MLP."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.spatial_attn = Attention(width, heads)
        self.temporal_attn = Attention(width, heads, causal=True)
        self.ffn = _mlp(width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Transform (B, F, S, M)."""
        tokens = tokens + self.spatial_attn(self.norm1(tokens))
        tokens = tokens + self.temporal_attn(self.norm2(tokens).transpose(1, 2)).transpose(1, 2)
        return tokens + self.ffn(self.norm3(tokens))


class Transformer(nn.Module):
    """Blocks behind an entry LayerNorm-Linear-LayerNorm and a table of positions; without a final norm.

    Args:
        in_width: I.
        width: M.
        heads: Of every attention.
        layers: Number of blocks.
        out_width: Width that a last layer brings every token to; None: the encoder, which has none, and whose
            blocks attend across frames as well.
    """

    def __init__(
        self, in_width: int, width: int, heads: int, layers: int, out_width: int | None = None
    ) -> None:
        super().__init__()
        self.ffn = nn.Sequential(nn.LayerNorm(in_width), nn.Linear(in_width, width), nn.LayerNorm(width))
        block = SpatioTemporalBlock if out_width is None else SpatialBlock
        self.transformer_blocks = nn.Sequential(*(block(width, heads) for _ in range(layers)))
        self.out = nn.Identity() if out_width is None else nn.Linear(width, out_width)

    def forward(self, tokens: Tensor, condition: Tensor | None = None) -> Tensor:
        """Transform the tokens of every frame.

        Args:
            tokens: (B, F, S, I).
            condition: (B, L, M) tokens that every frame has as well, behind its own, without a position.

        Returns:
            (B, F, S + L, M), or the last layer's width instead of M.
        """
        entered = self.ffn(tokens)
        entered = entered + positions(entered.shape[2], entered.shape[3], entered.device)
        if condition is not None:
            repeated = condition[:, None].expand(-1, entered.shape[1], -1, -1)
            entered = torch.cat([entered, repeated], dim=2)
        return self.out(self.transformer_blocks(entered))


def positions(length: int, width: int, device: torch.device) -> Tensor:
    """Return the sin/cos table (length, width): sines in even channels, cosines in odd ones."""
    place = torch.arange(length, device=device, dtype=torch.float32)[:, None]
    channel = torch.arange(0, width, 2, device=device, dtype=torch.float32)
    angle = place * PERIOD ** (-channel / width)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :width]

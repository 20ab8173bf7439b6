"""Attention pooling: a few learned latents gather what is in many tokens.

Source: spec LatentVLA 5 C. Weights have UniVLA's names.

Dimension letters: B batch, N token, V width of a token, L latent, D width of a latent, A head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INNER = 4
"""Inner width of the feed-forward network, as a multiple of a latent's width."""
INITIAL_STD = 0.02
"""Standard deviation of the first latents."""
SMALLEST_NORM = 1e-8


class _RootMeanSquareNorm(nn.Module):
    """Divides by the root of the mean square, of which the clamp is no addend as in torch's."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True) * x.shape[-1] ** -0.5
        return x / size.clamp(min=SMALLEST_NORM) * self.g


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, latents: Tensor, tokens: Tensor) -> Tensor:
        """Let latents (B, L, D) attend to tokens (B, N, D); (B, L, D)."""
        query, key, value = (
            x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x in (self.q(latents), *self.kv(tokens).chunk(2, dim=-1))
        )  # (B, A, ., D / A)
        return self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class _Gated(nn.Module):
    """A linear layer of which one half gates the other."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.project(x).chunk(2, dim=-1)
        return value * F.silu(gate)


class AttentionPool(nn.Module):
    """Pools tokens to a few latents.

    Args:
        latents: Number of latents L.
        tokens: Width V of a token.
        width: Width D of a latent.
        heads: Attention heads; they divide the width.
    """

    def __init__(self, latents: int, tokens: int, width: int, heads: int) -> None:
        super().__init__()
        self.latents = nn.Parameter(INITIAL_STD * torch.randn(latents, width))
        self.projection = nn.Linear(tokens, width)
        self.attn_norm = _RootMeanSquareNorm(width)
        self.attn = _Attention(width, heads)
        self.mlp_norm = _RootMeanSquareNorm(width)
        self.mlp = nn.Sequential(_Gated(width, INNER * width), nn.Linear(INNER * width, width))

    def forward(self, tokens: Tensor, start: Tensor | None = None) -> Tensor:
        """Pool tokens (B, N, V) to (B, L, D).

        Args:
            tokens: What is pooled.
            start: (B, D) is added to every latent before it attends.
        """
        latents = self.latents.expand(tokens.shape[0], -1, -1)
        if start is not None:
            latents = latents + start[:, None]
        latents = self.attn_norm(latents + self.attn(latents, self.projection(tokens)))
        return self.mlp_norm(latents + self.mlp(latents))

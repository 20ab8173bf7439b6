"""A decoder that tells what the vision-language model would: its codes, and its pooled embeddings.

It reads the planner's scene (spec LatentVLA 5 D). Its queries stand in the order visual embeddings, codes,
action embeddings. Each kind sees those before it and its own, a code only the codes before it.

Dimension letters: B batch, M token of the scene, N position of a code, K value of a code, L embedding, Q
query (all embeddings and codes), H width, D width of an embedding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from student.latentvla.prediction import Embeddings

if TYPE_CHECKING:
    from student.latentvla.config import DecisionConfig

INITIAL_STD = 0.02
"""Standard deviation of the first queries."""


class Told(NamedTuple):
    """What the decoder tells of B frames."""

    logits: Tensor
    """(B, N, K) of every code, given those before it."""
    embeddings: Embeddings
    """(B, L, D) each."""


class DecisionTransformer(nn.Module):
    """The decoder: 50,449,408 weights with the released sizes, without queries and heads.

    Args:
        config: Its sizes.
        width: Of the scene's tokens and of embeddings, D.
        positions: Codes of a frame, N.
        codes: Values of a code, K.
        visual: Visual embeddings.
        action: Action embeddings.
    """

    def __init__(
        self, config: DecisionConfig, width: int, *, positions: int, codes: int, visual: int, action: int
    ) -> None:
        super().__init__()
        inner = config.width
        self.autoregressive = config.decoding == "autoregressive"
        self.positions, self.codes, self.visual = positions, codes, visual
        self.memory = nn.Linear(width, inner)
        self.queries = nn.Parameter(INITIAL_STD * torch.randn(visual + positions + action, inner))
        # The last row stands for the beginning, and for a code that is not known.
        self.code_embedding = nn.Embedding(codes + 1, inner) if self.autoregressive else None
        layer = nn.TransformerDecoderLayer(
            inner,
            config.heads,
            config.inner,
            config.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.decoder = nn.TransformerDecoder(layer, config.layers, nn.LayerNorm(inner))
        self.code_head = nn.Linear(inner, codes)
        self.visual_head, self.action_head = nn.Linear(inner, width), nn.Linear(inner, width)
        kind = torch.tensor([0] * visual + [1] * positions + [2] * action)
        hidden = kind[:, None] < kind  # (Q, Q), True where a query may not look
        span = slice(visual, visual + positions)
        hidden[span, span] = torch.ones(positions, positions).triu(1).bool()
        self.hidden: Tensor
        self.register_buffer("hidden", hidden, persistent=False)

    def forward(self, scene: Tensor, codes: Tensor | None = None) -> Told:
        """Tell codes and embeddings of scenes (B, M, D).

        Args:
            scene: What the planner reads.
            codes: (B, N) what stands before each position, -1 where not known. None: the decoder's own
                codes, the likeliest one after the other. A ``parallel`` decoder needs and reads none.
        """
        memory = self.memory(scene)
        if codes is None and self.autoregressive:
            codes = self._greedy(memory)
        decoded = self._decode(memory, codes, len(self.queries))
        end = self.visual + self.positions
        embeddings = Embeddings(
            self.visual_head(decoded[:, : self.visual]), self.action_head(decoded[:, end:])
        )
        return Told(self.code_head(decoded[:, self.visual : end]), embeddings)

    def _greedy(self, memory: Tensor) -> Tensor:
        """Choose one code after the other, the last one excepted, which nothing follows; (B, N)."""
        codes = memory.new_full((memory.shape[0], self.positions), -1, dtype=torch.int64)
        chosen = list(codes.unbind(dim=1))
        for position in range(self.positions - 1):
            decoded = self._decode(memory, torch.stack(chosen, dim=1), self.visual + position + 1)
            chosen[position] = self.code_head(decoded[:, -1]).argmax(dim=-1)
        return torch.stack(chosen, dim=1)

    def _decode(self, memory: Tensor, codes: Tensor | None, count: int) -> Tensor:
        """Decode the first ``count`` queries over the memory (B, M, H); (B, count, H)."""
        queries = self.queries.expand(memory.shape[0], -1, -1)
        if self.code_embedding is not None:
            if codes is None:
                raise ValueError("an autoregressive decoder needs the codes before each position")
            unknown = codes.new_full((codes.shape[0], 1), -1)
            before = torch.cat([unknown, codes[:, :-1]], dim=1)  # (B, N)
            before = torch.where(before < 0, self.codes, before)
            visual, told, action = queries.tensor_split((self.visual, self.visual + self.positions), dim=1)
            queries = torch.cat([visual, told + self.code_embedding(before), action], dim=1)
        hidden = self.hidden[:count, :count]
        return self.decoder(queries[:, :count], memory, tgt_mask=hidden, tgt_is_causal=False)

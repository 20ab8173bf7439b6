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

from student.latentvla.embeddings.decoder import Decoder
from student.latentvla.prediction import Embeddings

if TYPE_CHECKING:
    from student.latentvla.config import DecisionConfig
    from student.latentvla.embeddings.decoder import KeysValues

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
        self.decoder = Decoder(config.layers, inner, config.heads, config.inner, config.dropout)
        self.code_head = nn.Linear(inner, codes)
        self.visual_head, self.action_head = nn.Linear(inner, width), nn.Linear(inner, width)
        kind = torch.tensor([0] * visual + [1] * positions + [2] * action)
        visible = kind[:, None] >= kind  # (Q, Q)
        span = slice(visual, visual + positions)
        visible[span, span] = torch.ones(positions, positions).tril().bool()
        self.visible: Tensor
        self.register_buffer("visible", visible, persistent=False)

    def forward(self, scene: Tensor, codes: Tensor | None = None) -> Told:
        """Tell codes and embeddings of scenes (B, M, D).

        Args:
            scene: What the planner reads.
            codes: (B, N) what stands before each position, -1 where not known. None: the decoder's own
                codes, the likeliest one after the other. A ``parallel`` decoder needs and reads none.
        """
        memory = self.decoder.read(self.memory(scene))
        if codes is None and self.code_embedding is not None:
            decoded = self._decode_greedily(memory, scene.shape[0])
        else:
            decoded, _ = self.decoder(self._asked(codes, scene.shape[0]), memory, visible=self.visible)
        visual, told, action = self._kinds(decoded)
        embeddings = Embeddings(self.visual_head(visual), self.action_head(action))
        return Told(self.code_head(told), embeddings)

    def _asked(self, codes: Tensor | None, batch: int) -> Tensor:
        """Return all queries (B, Q, H), those of codes with the code before each; ``codes`` is (B, N)."""
        queries = self.queries.expand(batch, -1, -1)
        if codes is None or self.code_embedding is None:
            return queries
        visual, told, action = self._kinds(queries)
        unknown = codes.new_full((codes.shape[0], 1), -1)
        before = self._embedded(torch.cat([unknown, codes[:, :-1]], dim=1))  # (B, N, H)
        return torch.cat([visual, told + before, action], dim=1)

    def _decode_greedily(self, memory: list[KeysValues], batch: int) -> Tensor:
        """Decode all queries (B, Q, H), a code only after the likeliest ones before it are chosen."""
        queries = self.queries.expand(batch, -1, -1)
        visual, told, action = self._kinds(queries)
        code = self.queries.new_full((batch,), -1, dtype=torch.int64)
        count = self.visual + 1
        decoded, past, visible = [], None, self.visible[:count, :count]
        for position in range(self.positions):
            asked = told[:, position : position + 1] + self._embedded(code)[:, None]
            first = position == 0
            asked = torch.cat([visual, asked], dim=1) if first else asked
            answer, past = self.decoder(asked, memory, past, visible if first else None)
            code = self.code_head(answer[:, -1]).argmax(dim=-1)
            decoded.append(answer)
        decoded.append(self.decoder(action, memory, past)[0])
        return torch.cat(decoded, dim=1)

    def _embedded(self, codes: Tensor) -> Tensor:
        """Return embeddings (..., H) of codes (...), of which -1 is not known."""
        assert self.code_embedding is not None
        return self.code_embedding(torch.where(codes < 0, self.codes, codes))

    def _kinds(self, queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split all queries (B, Q, .) into those of visual embeddings, codes and action embeddings."""
        visual, told, action = queries.tensor_split((self.visual, self.visual + self.positions), dim=1)
        return visual, told, action

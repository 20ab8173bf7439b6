"""Orion-Lite: a small decoder regresses the planning token, from which a VAE planner plans.

Source: spec Orion-Lite 2.

Dimension letters: B batch, N vision token, Q scene query (N less the ego token), E query width,
D token width, H hidden width, T step, M mode, Z latent.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn

from cache_schema.vocabulary.orion import EGO_TOKEN, PLANNER_PARTS, SCENE_QUERIES
from student.orion_lite.planner import Gaussian, Planner, PlannerConfig
from student.orion_lite.single_query import decode
from student.runs.weights import load_strictly

if TYPE_CHECKING:
    from collections.abc import Mapping

    from student.orion_lite.config import OrionLiteConfig
    from student.orion_lite.teacher_heads import TeacherHeads


class Prediction(NamedTuple):
    """The student's outputs for B frames."""

    planning_token: Tensor
    """(B, D), to be compared with the teacher's."""
    offsets: Tensor
    """(B, M, T, 2) metres, LiDAR frame (x right, y forward): each step from the one before."""
    present: Gaussian
    """Distribution of the planner's latent without the ground truth."""
    future: Gaussian | None
    """Distribution of the planner's latent with the ground truth; None where none was given."""


class OrionLite(Planner):
    """The decoder in front of its planner. Weights have the released names: 161 tensors at released sizes.

    Args:
        config: Sizes of the decoder.
        planner: Sizes of the planner, and with them the width of a token.
        heads: Needed to read scene queries; whole vision tokens are read without.
    """

    def __init__(
        self,
        config: OrionLiteConfig,
        planner: PlannerConfig | None = None,
        heads: TeacherHeads | None = None,
    ) -> None:
        planner = planner or PlannerConfig()
        super().__init__(planner, batch_mixing=config.batch_mixing)
        width = planner.token_width
        self.config = config
        self.planning_query = nn.Parameter(torch.empty(1, 1, config.hidden))
        self.input_proj = nn.Linear(width, config.hidden)
        self.norm_input = nn.LayerNorm(config.hidden)
        layer = nn.TransformerDecoderLayer(
            config.hidden,
            config.heads,
            config.feedforward,
            config.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.transformer_decoder = nn.TransformerDecoder(layer, config.layers)
        self.output_proj = nn.Linear(config.hidden, width)
        self.norm_output = nn.LayerNorm(width)
        self.heads = heads
        for name, weight in self.named_parameters():
            if weight.dim() >= 2 and not name.startswith(PLANNER_PARTS):
                nn.init.xavier_uniform_(weight)

    def load_planner(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the teacher's planner: all its weights, by their checkpoint names.

        Raises:
            CheckpointError: A tensor is missing, unexpected or of the wrong shape.
        """
        names = frozenset(name for name in self.state_dict() if name.startswith(PLANNER_PARTS))
        load_strictly(self, tensors, names=names)

    def forward(
        self,
        scene_queries: Tensor,
        ego_token: Tensor,
        *,
        trajectory: Tensor | None = None,
        noise: Tensor | None = None,
        latent: Literal["present", "future"] = "present",
    ) -> Prediction:
        """Predict from what a latent dataset stores.

        Args:
            scene_queries: (B, Q, E) queries before the teacher's projection.
            ego_token: (B, D).
            trajectory: (B, T, 2) ground-truth per-step offsets in metres; see ``Planner.plan``.
            noise: (B, 1, Z); None is deterministic.
            latent: Which distribution the planner's latent is taken from.
        """
        memory = self.embed_queries(scene_queries, ego_token)
        return self.predict(memory, trajectory=trajectory, noise=noise, latent=latent)

    def embed_tokens(self, vision_tokens: Tensor) -> Tensor:
        """Map whole vision tokens (B, N, D) to the decoder's memory (B, N, H)."""
        return self.norm_input(self.input_proj(vision_tokens))

    def embed_queries(self, scene_queries: Tensor, ego_token: Tensor) -> Tensor:
        """Map (B, Q, E) and (B, D) to the memory (B, Q + 1, H) that the whole vision tokens would give."""
        if self.heads is None:
            raise ValueError("scene queries can only be read with the teacher's heads")
        features = {SCENE_QUERIES: scene_queries, EGO_TOKEN: ego_token}
        return self.norm_input(self.heads.project(features, self.input_proj))

    def predict(
        self,
        memory: Tensor,
        *,
        trajectory: Tensor | None = None,
        noise: Tensor | None = None,
        latent: Literal["present", "future"] = "present",
    ) -> Prediction:
        """Predict from the decoder's memory (B, N, H); the rest as in ``forward``."""
        # Not len(), which would become a constant in a traced graph.
        query = self.planning_query.flatten(1).expand(memory.shape[0], -1)  # (B, H)
        decoded = decode(self.transformer_decoder, query, memory)  # (B, H)
        token = self.norm_output(self.output_proj(decoded))  # (B, D)
        with _in_float32(token.device):
            plan = self.plan(token.to(query.dtype), trajectory=trajectory, noise=noise, latent=latent)
        return Prediction(token, plan.offsets, plan.present, plan.future)


def _in_float32(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Compute in float32: rounding to 16 bits is larger than the divergence of the latent."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()

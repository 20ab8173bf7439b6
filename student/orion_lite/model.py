"""Orion-Lite: a small decoder regresses the planning token, a VAE planner drives by it.

Source: spec Orion-Lite 2.

Dimension letters: B batch, N vision token, Q scene query (N less the ego token), E query width,
D token width, H hidden width, T step, M mode, Z latent.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cache_schema.errors import CheckpointError
from student.orion_lite.planner import PARTS, Gaussian, Planner, PlannerConfig
from student.orion_lite.single_query import decode
from student.runs.weights import load_strictly

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class OrionLiteConfig:
    """Sizes of the student; the defaults are the released ones."""

    hidden: int = 1024
    """Width H of the decoder."""
    layers: int = 6
    """Layers of the decoder."""
    heads: int = 16
    """Attention heads of each layer."""
    feedforward: int = 4096
    """Inner width of each layer's feed-forward network."""
    dropout: float = 0.1
    """Dropout while training."""
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    """Sizes of the planner, and with them the width of a token."""


class TeacherHeads(nn.Module):
    """The teacher's projections from scene queries to vision tokens: constants of the dataset.

    They are buffers that follow the model to its device and stay out of its weights.

    Args:
        asset: ``scene.weight`` (D, E), ``scene.bias`` (D), and the same for ``map``.
        segments: What scene queries are made of, in order: (name, length). "scene" and "history" pass
            through the scene projection, "map" through its own. The ego token comes just before "map".

    Raises:
        CheckpointError: The asset lacks a projection.
    """

    scene_weight: Tensor
    scene_bias: Tensor
    map_weight: Tensor
    map_bias: Tensor

    def __init__(self, asset: Mapping[str, Tensor], segments: tuple[tuple[str, int], ...]) -> None:
        super().__init__()
        for name in ("scene.weight", "scene.bias", "map.weight", "map.bias"):
            if name not in asset:
                raise CheckpointError(
                    f"the teacher's heads lack {name}",
                    expected="scene.weight, scene.bias, map.weight and map.bias",
                    repair="use a latent dataset that carries its teacher's heads",
                )
            self.register_buffer(name.replace(".", "_"), asset[name], persistent=False)
        names = [name for name, _ in segments]
        if names != ["scene", "history", "map"]:
            raise CheckpointError(
                f"scene queries are made of {', '.join(names) or 'nothing named'}",
                expected="the segments scene, history, map",
                repair="use a latent dataset of an ORION teacher",
            )
        self.queries_before_ego = sum(length for name, length in segments if name != "map")


class Prediction(NamedTuple):
    """What a student says of B frames."""

    planning_token: Tensor
    """(B, D), to be compared with the teacher's."""
    offsets: Tensor
    """(B, M, T, 2) metres, LiDAR frame (x right, y forward): each step from the one before."""
    present: Gaussian
    """The planner's latent without the truth."""
    future: Gaussian | None
    """The planner's latent with the truth; None where none was given."""


class OrionLite(Planner):
    """The decoder in front of its planner. Weights have the released names: 161 tensors at released sizes.

    Args:
        config: Sizes.
        heads: Needed to read scene queries; whole vision tokens are read without.
    """

    def __init__(self, config: OrionLiteConfig, heads: TeacherHeads | None = None) -> None:
        super().__init__(config.planner)
        width = config.planner.token_width
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
            if weight.dim() >= 2 and not name.startswith(PARTS):
                nn.init.xavier_uniform_(weight)

    def take_planner(self, tensors: Mapping[str, Tensor]) -> None:
        """Start from the teacher's planner.

        Args:
            tensors: All weights of the planner under their checkpoint names: 44 with a GRU of four layers.

        Raises:
            CheckpointError: A tensor is missing, unexpected or of the wrong shape.
        """
        names = frozenset(name for name in self.state_dict() if name.startswith(PARTS))
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
            trajectory: (B, T, 2) true per-step offsets in metres; see ``Planner.plan``.
            noise: (B, 1, Z); None is deterministic.
            latent: Which distribution the planner's latent is taken from.
        """
        memory = self.embed_queries(scene_queries, ego_token)
        return self.predict(memory, trajectory=trajectory, noise=noise, latent=latent)

    def embed_tokens(self, vision_tokens: Tensor) -> Tensor:
        """From (B, N, D) whole vision tokens to the decoder's memory (B, N, H)."""
        return self.norm_input(self.input_proj(vision_tokens))

    def embed_queries(self, scene_queries: Tensor, ego_token: Tensor) -> Tensor:
        """From (B, Q, E) and (B, D) to the memory (B, Q + 1, H) that the whole vision tokens would give.

        All tokens but the ego token are one linear map E -> D of their queries, so that it is multiplied
        into the first layer instead of widening every query.
        """
        heads = self.heads
        if heads is None:
            raise ValueError("scene queries can only be read with the teacher's heads")
        weight, bias = self.input_proj.weight, self.input_proj.bias  # (H, D), (H)
        before, after = scene_queries.tensor_split([heads.queries_before_ego], dim=1)
        hidden = torch.cat(
            [
                F.linear(before, weight @ heads.scene_weight, weight @ heads.scene_bias + bias),
                self.input_proj(ego_token)[:, None],
                F.linear(after, weight @ heads.map_weight, weight @ heads.map_bias + bias),
            ],
            dim=1,
        )  # (B, Q + 1, H)
        return self.norm_input(hidden)

    def predict(
        self,
        memory: Tensor,
        *,
        trajectory: Tensor | None = None,
        noise: Tensor | None = None,
        latent: Literal["present", "future"] = "present",
    ) -> Prediction:
        """Predict from the decoder's memory (B, N, H); the rest as in ``forward``."""
        # Not len(), which a traced graph would keep as a constant.
        query = self.planning_query[0].expand(memory.shape[0], -1)  # (B, H)
        decoded = decode(self.transformer_decoder, query, memory)  # (B, H)
        token = self.norm_output(self.output_proj(decoded))  # (B, D)
        with _exactly(token.device):
            plan = self.plan(token.to(query.dtype), trajectory=trajectory, noise=noise, latent=latent)
        return Prediction(token, plan.offsets, plan.present, plan.future)


def _exactly(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Compute in float32 where others may round to 16 bits, in which the latent's divergence drowns."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()

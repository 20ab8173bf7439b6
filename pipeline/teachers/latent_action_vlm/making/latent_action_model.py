"""Latent action models: what changed from one frame to the next, in a few codes (spec LatentVLA, section 2).

Stage 1 learns environment codes beside a condition that already says how the ego moved; stage 2 learns ego
codes beside environment codes. Weights have the names of UniVLA's published models.

Dimension letters: B batch, P patches of a frame, D feature width, M model width, E code width, N action
tokens, L condition tokens, C condition width, K codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from cache_schema.format.features import Record
from pipeline.teachers.latent_action_vlm.making.transformer import Transformer

COMMITMENT = 0.25
"""Weight of the distance of an encoder's output from its code, as in the first VQ-VAE."""


class LatentActionConfig(Record):
    """Sizes of both stages; by default the published ones."""

    feature_width: int = Field(768, gt=0)
    """D."""
    condition_width: int = Field(768, gt=0)
    """C."""
    width: int = Field(768, gt=0)
    """M."""
    heads: int = Field(12, gt=0)
    encoder_layers: int = Field(12, gt=0)
    decoder_layers: int = Field(12, gt=0)
    code_width: int = Field(128, gt=0)
    """E."""
    tokens: int = Field(4, gt=0)
    """N action tokens of a transition, of either kind."""
    ego_codes: int = Field(16, gt=1)
    """K of the ego codebook."""
    environment_codes: int = Field(16, gt=1)
    """K of the environment codebook."""


class Quantised(NamedTuple):
    """Encoder outputs and the codes nearest to them."""

    latent: Tensor
    """(B, N, E) before quantisation."""
    codes: Tensor
    """(B, N) int64."""
    value: Tensor
    """(B, N, E) the codes' vectors, whose gradient goes to ``latent`` as it is."""
    codebook_loss: Tensor
    """() mean square of the codes' distance, for the codebook."""
    commitment_loss: Tensor
    """() the same, for the encoder."""

    @property
    def loss(self) -> Tensor:
        """() both, weighted."""
        return self.codebook_loss + COMMITMENT * self.commitment_loss


@dataclass(frozen=True, eq=False)
class Rebuilt:
    """The later frame, rebuilt from the earlier one and from codes."""

    features: Tensor
    """(B, P, D)."""
    mse: Tensor
    """() mean square of its difference from the later frame's."""
    environment: Quantised
    ego: Quantised | None = None
    """Of stage 2."""


class VectorQuantiser(nn.Module):
    """A codebook (K, E)."""

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.codebook = nn.Embedding(codes, width)
        nn.init.uniform_(self.codebook.weight, -1 / codes, 1 / codes)

    def forward(self, latent: Tensor) -> Quantised:
        """Find the nearest code by L2, the lowest of equally near ones, of every latent (B, N, E)."""
        latent, codebook = latent.float(), self.codebook.weight
        codes = (latent[..., None, :] - codebook).square().sum(-1).argmin(-1)
        vectors = self.codebook(codes)
        return Quantised(
            latent,
            codes,
            latent + (vectors - latent).detach(),
            codebook_loss=F.mse_loss(vectors, latent.detach()),
            commitment_loss=F.mse_loss(latent, vectors.detach()),
        )


class EnvironmentModel(nn.Module):
    """Stage 1: environment codes, given how the ego moved."""

    def __init__(self, config: LatentActionConfig) -> None:
        super().__init__()
        self.config = config
        self.action_latent = _queries(config)
        self.lang_proj = nn.Linear(config.condition_width, config.width)
        self.encoder = _encoder(config)
        self.to_codebook = nn.Linear(config.width, config.code_width)
        self.vq = VectorQuantiser(config.environment_codes, config.code_width)
        self.patch_up = nn.Linear(config.feature_width, config.width)
        self.action_up = nn.Linear(config.code_width, config.width)
        self.decoder = _decoder(config)

    def encode(self, features: Tensor, condition: Tensor) -> Quantised:
        """Find the environment codes of features (B, 2, P, D) and a condition (B, L, C)."""
        encoded = self.encoder(_with_queries(features, self.action_latent), self.lang_proj(condition))
        return self.vq(self.to_codebook(encoded[:, 1, : self.config.tokens]))

    def decode(self, earlier: Tensor, condition: Tensor, environment: Tensor) -> Tensor:
        """Rebuild the later frame (B, P, D) from the earlier, a condition and codes' vectors (B, N, E)."""
        tokens = torch.cat([self.action_up(environment), self.patch_up(earlier)], dim=1)
        decoded = self.decoder(tokens[:, None], self.lang_proj(condition))[:, 0]
        return decoded[:, self.config.tokens :][:, : earlier.shape[1]]

    def forward(self, features: Tensor, condition: Tensor) -> Rebuilt:
        """Rebuild the later frame; (B, 2, P, D) and (B, L, C), of one length L for all samples."""
        environment = self.encode(features, condition)
        decoded = self.decode(features[:, 0], condition, environment.value)
        return Rebuilt(decoded, mean_square(decoded, features), environment)


class EgoModel(nn.Module):
    """Stage 2: ego codes, beside environment codes.

    Args:
        config: Sizes.
        environment: The whole of stage 1, which stays as it is and gives the environment codes. None: they
            come from new queries of the same encoder as the ego codes, as UniVLA's do; only their codebook is
            stage 1's.
    """

    def __init__(self, config: LatentActionConfig, environment: EnvironmentModel | None = None) -> None:
        super().__init__()
        self.config, self.environment = config, environment
        self.action_latent_controllable = _queries(config)
        self.encoder = _encoder(config)
        self.to_codebook = nn.Linear(config.width, config.code_width)
        self.vq_action = VectorQuantiser(config.ego_codes, config.code_width)
        self.patch_up = nn.Linear(config.feature_width, config.width)
        self.action_up = nn.Linear(config.code_width, config.width)
        self.action_up_uncontrol = nn.Linear(config.code_width, config.width)
        self.decoder = _decoder(config)
        if environment is None:
            self.action_latent = _queries(config)
            self.to_codebook_uncontrol = nn.Linear(config.width, config.code_width)
            self.vq = VectorQuantiser(config.environment_codes, config.code_width).requires_grad_(False)
        else:
            environment.requires_grad_(False)

    @classmethod
    def after(cls, stage_1: EnvironmentModel, *, keep_encoder: bool) -> EgoModel:
        """Return a new model of stage 2, with what it takes from stage 1.

        Args:
            stage_1: The trained model.
            keep_encoder: Take all of it, frozen; else its codebook, frozen, and its queries, trained on.
        """
        if keep_encoder:
            return cls(stage_1.config, stage_1)
        model = cls(stage_1.config)
        with torch.no_grad():
            model.vq.codebook.weight.copy_(stage_1.vq.codebook.weight)
            model.action_latent.copy_(stage_1.action_latent)
        return model

    def encode_ego(self, features: Tensor) -> Quantised:
        """Find the ego codes of features (B, 2, P, D)."""
        return self.vq_action(self.to_codebook(self._queried(features)[:, : self.config.tokens]))

    def encode(self, features: Tensor, condition: Tensor | None = None) -> tuple[Quantised, Quantised]:
        """Find ego and environment codes of features (B, 2, P, D).

        A condition (B, L, C) is needed where environment codes come from stage 1.
        """
        queried, n = self._queried(features), self.config.tokens
        ego = self.vq_action(self.to_codebook(queried[:, :n]))
        if self.environment is None:
            return ego, self.vq(self.to_codebook_uncontrol(queried[:, n:]))
        assert condition is not None, "stage 1 reads a condition"
        with torch.no_grad():
            return ego, self.environment.encode(features, condition)

    def _queried(self, features: Tensor) -> Tensor:
        """Return the later frame's tokens (B, N or 2 N, M) at the queries: the ego's, then others."""
        queries = [self.action_latent_controllable]
        if self.environment is None:
            queries.append(self.action_latent)
        encoded = self.encoder(_with_queries(features, *queries))
        return encoded[:, 1, : len(queries) * self.config.tokens]

    def decode(self, earlier: Tensor, ego: Tensor, environment: Tensor) -> Tensor:
        """Rebuild the later frame (B, P, D) from the earlier (B, P, D) and the codes' vectors (B, N, E)."""
        tokens = [self.action_up(ego), self.action_up_uncontrol(environment), self.patch_up(earlier)]
        return self.decoder(torch.cat(tokens, dim=1)[:, None])[:, 0, 2 * self.config.tokens :]

    def forward(self, features: Tensor, condition: Tensor | None = None) -> Rebuilt:
        """Rebuild the later frame; arguments as of ``encode``."""
        ego, environment = self.encode(features, condition)
        decoded = self.decode(features[:, 0], ego.value, environment.value)
        return Rebuilt(decoded, mean_square(decoded, features), environment, ego)


def _queries(config: LatentActionConfig) -> nn.Parameter:
    return nn.Parameter(torch.empty(1, 1, config.tokens, config.feature_width).uniform_(-1, 1))


def _encoder(config: LatentActionConfig) -> Transformer:
    return Transformer(config.feature_width, config.width, config.heads, config.encoder_layers)


def _decoder(config: LatentActionConfig) -> Transformer:
    return Transformer(
        config.width, config.width, config.heads, config.decoder_layers, out_width=config.feature_width
    )


def _with_queries(features: Tensor, *queries: Tensor) -> Tensor:
    batch, frames = features.shape[:2]
    return torch.cat([*(query.expand(batch, frames, -1, -1) for query in queries), features], dim=2)


def mean_square(decoded: Tensor, features: Tensor) -> Tensor:
    """Return () how far a rebuilt frame (B, P, D) is from the later one of features (B, 2, P, D)."""
    return F.mse_loss(decoded.float(), features[:, 1])

"""Positional encodings of image rays, reference points, times and poses.

Source: spec ORION teacher 1.2, 1.3.
Dimension letters: B slots, C cameras, N image tokens, Q queries, P points, E width.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.teachers.orion.network.config import RAY_RANGE_M

if TYPE_CHECKING:
    from pipeline.teachers.orion.network.config import OrionConfig

FREQUENCIES = 6
"""Frequencies 1, 2, 4, ... of the sinusoidal encoding of a number."""

MOTION_NUMBERS = 13
"""Age and the upper three rows of a relative pose."""

NEAREST_M, FARTHEST_M = 1.0, 61.2


def inverse_sigmoid(x: Tensor) -> Tensor:
    """Return the logit of ``x``, which is clamped to [0, 1] and kept finite."""
    x = x.clamp(0, 1)
    return (x.clamp(min=1e-5) / (1 - x).clamp(min=1e-5)).log()


class Volume(nn.Module):
    """A box in the LiDAR frame, over which coordinates are normalised to 0..1."""

    def __init__(self, bounds_m: tuple[float, ...]) -> None:
        super().__init__()
        low, high = torch.tensor(bounds_m, device="cpu").chunk(2)
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("size", high - low, persistent=False)

    def normalise(self, points: Tensor) -> Tensor:
        """Map metres (..., 3) to 0..1; points outside exceed it."""
        return (points - self.get_buffer("low")) / self.get_buffer("size")

    def denormalise(self, fractions: Tensor) -> Tensor:
        """Inverse of ``normalise``."""
        return fractions * self.get_buffer("size") + self.get_buffer("low")


def frequency_encoding(x: Tensor) -> Tensor:
    """Map (..., n) to (..., 12 n): sines of all numbers, cosines, then the same at twice the frequency."""
    return torch.cat([wave(x * 2**k) for k in range(FREQUENCIES) for wave in (torch.sin, torch.cos)], dim=-1)


def time_encoding(seconds: Tensor, width: int) -> Tensor:
    """Map times (...) float64 to (..., width) float32: sines and cosines, interleaved."""
    pairs = torch.arange(width // 2, dtype=seconds.dtype, device=seconds.device)
    angles = 2 * math.pi * seconds[..., None] / 10000.0 ** (2 * pairs / width)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2).float()


def time_embedding(width: int) -> nn.Sequential:
    """Return the layers behind ``time_encoding``."""
    return nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width))


class RayPositions(nn.Module):
    """Positional encoding of every image token: points along its camera ray, in the LiDAR frame."""

    def __init__(self, config: OrionConfig) -> None:
        super().__init__()
        hidden = 4 * config.width
        self.position_encoder = nn.Sequential(
            nn.Linear(3 * config.depths, hidden), nn.ReLU(), nn.Linear(hidden, config.width)
        )
        self.volume = Volume(RAY_RANGE_M)
        self.register_buffer("pixels", token_pixels(config), persistent=False)

    def forward(self, img2lidar: Tensor) -> Tensor:
        """Map inverted projections (B, C, 4, 4) to encodings (B, N, E), N = cameras, rows, columns."""
        points = torch.einsum("bcij,ndj->bcndi", img2lidar, self.get_buffer("pixels"))[..., :3]
        rays = inverse_sigmoid(self.volume.normalise(points)).flatten(1, 2).flatten(2)  # (B, N, depths * 3)
        return self.position_encoder(rays)


def token_pixels(config: OrionConfig) -> Tensor:
    """Return (rows * columns, depths, 4): u d, v d, d, 1 of every patch's centre (u, v) at every depth d."""
    patch, grid = config.backbone.patch_size, config.backbone.grid
    centres = torch.arange(grid, device="cpu") * patch + patch / 2
    steps = torch.arange(config.depths, device="cpu")
    growth = (FARTHEST_M - NEAREST_M) / (config.depths * (config.depths + 1))
    depths = NEAREST_M + growth * steps * (steps + 1)
    v, u, d = torch.meshgrid(centres, centres, depths, indexing="ij")
    return torch.stack((u * d, v * d, d, torch.ones_like(d)), dim=-1).flatten(0, 1)


class PoseConditionedNorm(nn.Module):
    """Layer norm whose scale and shift depend on a past query's relative pose and age."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduce = nn.Sequential(nn.Linear(2 * FREQUENCIES * MOTION_NUMBERS, width), nn.ReLU())
        self.gamma = nn.Linear(width, width)
        self.beta = nn.Linear(width, width)

    def forward(self, x: Tensor, motion: Tensor) -> Tensor:
        """Map encodings (B, Q, E) and frequency encodings of motion (B, Q, 156) to (B, Q, E)."""
        condition = self.reduce(motion)
        return self.gamma(condition) * F.layer_norm(x, x.shape[-1:]) + self.beta(condition)


class QueryPositions(nn.Module):
    """Positional encodings of present and past queries, shared by both heads."""

    def __init__(self, config: OrionConfig) -> None:
        super().__init__()
        width = config.width
        numbers = 3 * config.lane_points
        self.width = width
        self.lane_points = config.lane_points
        self.query_pos = nn.Sequential(
            nn.Linear(2 * FREQUENCIES * numbers, width), nn.ReLU(), nn.Linear(width, width)
        )
        self.time_embedding = time_embedding(width)
        self.ego_pose_pe = PoseConditionedNorm(width)

    def present(self, references: Tensor) -> Tensor:
        """Map normalised reference points (Q, P, 3) of this frame's queries to (Q, E)."""
        ages = references.new_zeros(references.shape[0], dtype=torch.float64)
        return self._place(references) + self._time(ages)

    def past(self, references: Tensor, poses: Tensor, ages: Tensor) -> Tensor:
        """Return the encodings of queries in the memory.

        Args:
            references: (B, Q, P, 3) reference points, normalised in the present LiDAR frame.
            poses: (B, Q, 4, 4) past LiDAR frame to the present one.
            ages: (B, Q) float64, seconds.

        Returns:
            (B, Q, E).
        """
        motion = torch.cat((ages[..., None], poses[..., :3, :].flatten(2)), dim=-1).float()
        return self.ego_pose_pe(self._place(references), frequency_encoding(motion)) + self._time(ages)

    def _place(self, references: Tensor) -> Tensor:
        """Map (..., P, 3) to (..., E); a box has one point, which is repeated for all points of a lane."""
        return self.query_pos(
            frequency_encoding(references.expand(*references.shape[:-2], self.lane_points, 3).flatten(-2))
        )

    def _time(self, seconds: Tensor) -> Tensor:
        return self.time_embedding(time_encoding(seconds, self.width))

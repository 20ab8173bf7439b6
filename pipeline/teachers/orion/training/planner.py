"""ORION's planner while its teacher is trained: the networks behind the weights of ``planner_shapes``.

Source: spec ORION teacher 1.8.
Dimension letters: B batch, D token width, Z latent, L GRU layers, T steps of 0.5 s, M modes (= commands).
"""

from __future__ import annotations

import itertools
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from cache_schema.vocabulary.driving import COMMANDS, TRAJECTORY_STEPS
from cache_schema.vocabulary.orion import PLANNER_GRU_LAYERS, PLANNER_LATENT

LOG_SIGMA_LIMIT = 5.0
"""Log standard deviations stay within plus and minus this."""


class Gaussian(NamedTuple):
    """A diagonal normal distribution."""

    mu: Tensor
    """(B, Z)."""
    log_sigma: Tensor
    """(B, Z)."""

    def divergence(self, other: Gaussian) -> Tensor:
        """Return KL(self || other) in nats, (B)."""
        spread = (2 * self.log_sigma).exp() + (self.mu - other.mu).square()
        ratio = spread / (2 * (2 * other.log_sigma).exp())
        return (other.log_sigma - self.log_sigma - 0.5 + ratio).sum(dim=-1)


class _Distribution(nn.Module):
    """Maps (B, width) to a Gaussian; its convolutions see one point."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = (width, 2 * width, 2 * width, width // 2)
        pairs = itertools.pairwise(widths)
        self.encoder = nn.ModuleDict(
            {f"conv{number}": nn.Conv1d(*pair, 1) for number, pair in enumerate(pairs, 1)}
        )
        self.last_conv = nn.Sequential(nn.Identity(), nn.Conv1d(width // 2, 2 * PLANNER_LATENT, 1))

    def forward(self, x: Tensor) -> Gaussian:
        x = self.encoder["conv1"](x[..., None]).relu()
        x = self.encoder["conv3"](self.encoder["conv2"](x).relu())
        mu, log_sigma = self.last_conv(x).squeeze(-1).chunk(2, dim=-1)
        return Gaussian(mu, log_sigma.clamp(-LOG_SIGMA_LIMIT, LOG_SIGMA_LIMIT))


class Planner(nn.Module):
    """Plans one trajectory for every command from a planning token.

    Args:
        width: Width D of the token.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = width // PLANNER_GRU_LAYERS
        self.present_distribution = _Distribution(width)
        self.future_distribution = _Distribution(width + 2 * TRAJECTORY_STEPS)
        self.predict_model = nn.ModuleDict(
            {
                "gru": nn.GRU(PLANNER_LATENT, hidden, PLANNER_GRU_LAYERS),
                "linear1": nn.Linear(hidden, 2 * hidden),
                "linear2": nn.Linear(2 * hidden, width),
                "linear3": nn.Linear(width, width),
            }
        )
        self.ego_fut_decoder = nn.Sequential(
            nn.Linear(2 * width, 2 * width),
            nn.ReLU(),
            nn.Linear(2 * width, 2 * width),
            nn.ReLU(),
            nn.Linear(2 * width, 2 * len(COMMANDS)),
        )

    def forward(self, token: Tensor, z: Tensor) -> Tensor:
        """Map a token (B, D) and a latent (B, Z) to offsets (B, M, T, 2): metres from step to step."""
        start = token.unflatten(-1, (PLANNER_GRU_LAYERS, -1)).transpose(0, 1).contiguous()  # (L, B, D / L)
        parts = self.predict_model
        states, _ = cast("nn.GRU", parts["gru"])(z.expand(TRAJECTORY_STEPS, *z.shape), start)
        states = parts["linear3"](parts["linear2"](parts["linear1"](states).relu()).relu())  # (T, B, D)
        offsets = self.ego_fut_decoder(torch.cat((token.expand_as(states), states), dim=-1))
        return offsets.unflatten(-1, (len(COMMANDS), 2)).permute(1, 2, 0, 3)

    def present(self, token: Tensor) -> Gaussian:
        """Return the distribution of the latent given a token (B, D)."""
        return self.present_distribution(token)

    def future(self, token: Tensor, trajectory: Tensor) -> Gaussian:
        """Return the distribution given a token (B, D) and the expert's offsets (B, T, 2)."""
        return self.future_distribution(torch.cat((token, trajectory.flatten(1)), dim=-1))


def commanded(offsets: Tensor, command: Tensor) -> Tensor:
    """Return the offsets (B, T, 2) of the commanded mode (B), by all (B, M, T, 2)."""
    return offsets[torch.arange(len(offsets), device=offsets.device), command]

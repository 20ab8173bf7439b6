"""The VAE planner: from a planning token to one trajectory for every driving command.

Source: spec Orion-Lite 2.2 and ORION teacher 1.8 (one network under the same names).

Dimension letters: B batch, D token width, Z latent, L GRU layer, T step (of 0.5 s), M mode (= command).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cache_schema.errors import CheckpointError
from student.runs.weights import load_strictly

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LOG_SIGMA_LIMIT = 5.0
"""Log standard deviations stay within plus and minus this."""


@dataclass(frozen=True, kw_only=True)
class PlannerConfig:
    """Sizes of the planner; the defaults are the released ones."""

    token_width: int = 4096
    """Width D of the planning token."""
    latent: int = 32
    """Width Z of the latent variable."""
    gru_layers: int = 4
    """Layers L of the GRU; each is D / L wide."""
    modes: int = 6
    """Trajectories M, one a driving command."""
    steps: int = 6
    """Steps T of a trajectory."""

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Read the sizes off a planner's tensors.

        Raises:
            CheckpointError: A tensor that a size is read from is missing.
        """
        try:
            token_width = tensors["present_distribution.encoder.conv1.weight"].shape[1]
            future_width = tensors["future_distribution.encoder.conv1.weight"].shape[1]
            return cls(
                token_width=token_width,
                latent=tensors["predict_model.gru.weight_ih_l0"].shape[1],
                gru_layers=token_width // tensors["predict_model.gru.weight_hh_l0"].shape[1],
                modes=tensors["ego_fut_decoder.4.weight"].shape[0] // 2,
                steps=(future_width - token_width) // 2,
            )
        except KeyError as missing:
            raise CheckpointError(
                f"the planner's weights lack {missing.args[0]}",
                expected="all tensors of ORION's planner under their checkpoint names",
                repair="use a latent dataset that carries its teacher's whole planner",
            ) from missing


class Gaussian(NamedTuple):
    """A diagonal normal distribution."""

    mu: Tensor
    """(B, 1, Z)."""
    log_sigma: Tensor
    """(B, 1, Z), within plus and minus ``LOG_SIGMA_LIMIT``."""

    def at(self, noise: Tensor | None) -> Tensor:
        """Return mu + sigma * noise, or mu itself without noise; (B, 1, Z)."""
        return self.mu if noise is None else self.mu + self.log_sigma.exp() * noise


class Plan(NamedTuple):
    """The planner's output for B planning tokens."""

    offsets: Tensor
    """(B, M, T, 2) metres, LiDAR frame (x right, y forward): each step from the one before."""
    states: Tensor
    """(T, B, D) the token's predicted future."""
    present: Gaussian
    """Distribution of the latent given the token alone."""
    future: Gaussian | None
    """Distribution of the latent given the token and the ground truth; None where there was none."""


class _Encoder(nn.Module):
    """Maps (B, width) to (B, width / 2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(width, 2 * width, 1)
        self.conv2 = nn.Conv1d(2 * width, 2 * width, 1)
        self.conv3 = nn.Conv1d(2 * width, width // 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return _pointwise(self.conv3, _pointwise(self.conv2, _pointwise(self.conv1, x).relu()).relu())


class _Distribution(nn.Module):
    """Maps (B, width) to a Gaussian of (B, 1, Z)."""

    def __init__(self, width: int, latent: int) -> None:
        super().__init__()
        self.encoder = _Encoder(width)
        # The names are those of checkpoints, where the first module averages over the points: here, over one.
        self.last_conv = nn.Sequential(nn.Identity(), nn.Conv1d(width // 2, 2 * latent, 1))

    def forward(self, x: Tensor) -> Gaussian:
        encoded = _pointwise(cast("nn.Conv1d", self.last_conv[1]), self.encoder(x))  # (B, 2Z)
        mu, log_sigma = encoded[:, None].chunk(2, dim=-1)
        return Gaussian(mu, log_sigma.clamp(-LOG_SIGMA_LIMIT, LOG_SIGMA_LIMIT))


def _pointwise(conv: nn.Conv1d, x: Tensor) -> Tensor:
    """Apply a convolution of kernel 1 to (B, channels), a sequence of length 1.

    As a matrix product it takes a tenth of the time that a convolution takes on a CPU at batch 64. The
    weights are viewed, not indexed, whose gradient would be written twice.
    """
    return F.linear(x, conv.weight.flatten(1), conv.bias)


class _Predictor(nn.Module):
    """Predicts T future states of the token from the latent."""

    def __init__(self, config: PlannerConfig) -> None:
        super().__init__()
        hidden = config.token_width // config.gru_layers
        self.gru = nn.GRU(config.latent, hidden, config.gru_layers)
        self.linear1 = nn.Linear(hidden, 2 * hidden)
        self.linear2 = nn.Linear(2 * hidden, config.token_width)
        self.linear3 = nn.Linear(config.token_width, config.token_width)

    def forward(self, z: Tensor, start: Tensor) -> Tensor:
        """Map (T, B, Z) and the GRU's initial state (L, B, D / L) to (T, B, D)."""
        hidden, _ = self.gru(z, start)
        return self.linear3(self.linear2(self.linear1(hidden).relu()).relu())


class Planner(nn.Module):
    """Plans trajectories from a planning token.

    It is deterministic unless noise is given: the latent is then its mean.

    Args:
        config: Sizes.
        batch_mixing: Start the GRU from states that the reference mixes across the batch; at batch 1 both are
            the same.
    """

    def __init__(self, config: PlannerConfig, *, batch_mixing: bool = False) -> None:
        super().__init__()
        width = config.token_width
        self.planner_config, self.batch_mixing = config, batch_mixing
        self.present_distribution = _Distribution(width, config.latent)
        self.future_distribution = _Distribution(width + 2 * config.steps, config.latent)
        self.predict_model = _Predictor(config)
        self.ego_fut_decoder = nn.Sequential(
            nn.Linear(2 * width, 2 * width),
            nn.ReLU(),
            nn.Linear(2 * width, 2 * width),
            nn.ReLU(),
            nn.Linear(2 * width, 2 * config.modes),
        )

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Planner:
        """Build a planner from its tensors alone, under the checkpoint's names.

        Raises:
            CheckpointError: A tensor is missing, unexpected or of the wrong shape.
        """
        with torch.device("meta"):
            planner = Planner(PlannerConfig.of(tensors))
        load_strictly(planner, tensors, assign=True)
        return planner.eval()

    def plan(
        self,
        token: Tensor,
        *,
        trajectory: Tensor | None = None,
        noise: Tensor | None = None,
        latent: Literal["present", "future"] = "present",
    ) -> Plan:
        """Plan from a planning token.

        Args:
            token: (B, D).
            trajectory: (B, T, 2) ground-truth per-step offsets in metres, 0 where masked; an input of the
                future distribution only.
            noise: (B, 1, Z) standard normal; None takes the latent's mean.
            latent: Which distribution the latent is taken from; "future" needs a trajectory.
        """
        config = self.planner_config
        present = self.present_distribution(token)
        future = None
        if trajectory is not None:
            future = self.future_distribution(torch.cat([token, trajectory.flatten(1)], dim=-1))
        chosen = future if latent == "future" else present
        if chosen is None:
            raise ValueError("the future latent needs the ground-truth trajectory")
        z = chosen.at(noise)  # (B, 1, Z)
        z = z.transpose(0, 1).expand(config.steps, -1, -1)  # (T, B, Z)
        states = self.predict_model(z, self._initial_state(token))  # (T, B, D)
        # All T steps pass through the decoder at once, so that its weights are read once.
        step_tokens = torch.cat([token.expand_as(states), states], dim=-1)  # (T, B, 2D)
        offsets = self.ego_fut_decoder(step_tokens).unflatten(-1, (config.modes, 2))  # (T, B, M, 2)
        return Plan(offsets.permute(1, 2, 0, 3), states, present, future)

    def _initial_state(self, token: Tensor) -> Tensor:
        """Split (B, D) into the initial state of every GRU layer, (L, B, D / L)."""
        layers = self.planner_config.gru_layers
        if self.batch_mixing:
            return token.reshape(layers, len(token), -1)
        return token.unflatten(-1, (layers, -1)).transpose(0, 1).contiguous()


def planner_stages(tensors: Mapping[str, Tensor]) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
    """Build a planner from its tensors; return a function of a token (B, D) and noise (B, 1, Z).

    It returns every intermediate result under the name that a recording of the reference gives it.
    """
    planner = Planner.from_tensors(tensors)

    @torch.no_grad()
    def stages(token: Tensor, noise: Tensor) -> dict[str, Tensor]:
        plan = planner.plan(token, noise=noise)
        return {
            "present_mu": plan.present.mu,
            "present_log_sigma": plan.present.log_sigma,
            "future_states": plan.states,
            "ego_fut_preds_all": plan.offsets,
        }

    return stages


def waypoints(offsets: Tensor, command: Tensor) -> Tensor:
    """Return the positions (B, T, 2) in metres of the commanded mode (B), by the offsets (B, M, T, 2)."""
    chosen = offsets[torch.arange(len(offsets), device=offsets.device), command]  # (B, T, 2)
    return chosen.cumsum(dim=1)

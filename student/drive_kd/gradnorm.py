"""Weights of the terms of a loss that follow the norms of their gradients.

After every step, each weight is moved a little so that the norms of the weighted gradients come to stand to
each other as the static weights do. The target moves with the weights, and is differentiated, as released.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from student.drive_kd.losses import ANSWER_CE
from student.runs.checkpoint import MOMENTS

if TYPE_CHECKING:
    from collections.abc import Mapping

LARGEST_STATIC = 80.0
"""Largest weight to start from. From 89 on, its inverse overflows float32, and weights become 1e6."""
SMALLEST, LARGEST = 1e-6, 1e6
ANSWER_FLOOR = 0.6
"""Smallest weight of the answer."""
SMALLEST_FIRST_LOSS = 1e-12
SMALLEST_SQUARE = 1e-20
"""Added to the square of a norm."""


class Reweighting:
    """The weights in use.

    Args:
        static: Term -> its weight at first.
        learning_rate: Of the AdamW that moves weights.
        alpha: Exponent of how slowly a term has fallen; 0 for none.
    """

    def __init__(self, static: Mapping[str, float], *, learning_rate: float, alpha: float) -> None:
        self.static, self.alpha = dict(static), alpha
        self.first: dict[str, Tensor] = {}
        """Term -> its mean () in the first window that had it."""
        self._raw = {name: nn.Parameter(_raw(torch.tensor(float(w)))) for name, w in static.items()}
        self._optimizer = torch.optim.AdamW(
            self._raw.values(), lr=learning_rate, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.0
        )

    def weights(self) -> dict[str, float]:
        """Return the weight of every term."""
        return {name: weight.item() for name, weight in self._weights().items()}

    def update(self, losses: Mapping[str, Tensor], norms: Mapping[str, Tensor]) -> None:
        """End a window.

        Args:
            losses: Mean () of every unweighted term that occurred, over all samples: 0 where it did not.
            norms: Mean () of the norm of its gradient, likewise.
        """
        for name, loss in losses.items():
            self.first.setdefault(name, loss.clamp(min=SMALLEST_FIRST_LOSS))
        weights = self._weights()
        found = torch.stack([weights[name] * norms[name] for name in losses])
        if len(losses) <= 1 or not found.sum() > 0 or not found.isfinite().all():
            return
        shares = torch.tensor([float(self.static[name]) for name in losses])
        fallen = torch.stack([loss / self.first[name] for name, loss in losses.items()])
        target = shares / shares.sum() * found.sum() * (fallen / fallen.mean()) ** self.alpha
        self._optimizer.zero_grad(set_to_none=True)
        (found - target).abs().sum().backward()
        self._optimizer.step()
        self._renormalise()

    @torch.no_grad()
    def _renormalise(self) -> None:
        """Let the weights add up to what the static ones do."""
        weights = self._weights()
        factor = sum(self.static.values()) / torch.stack(list(weights.values())).sum()
        for name, weight in weights.items():
            self._raw[name].copy_(_raw(_bounded(name, weight * factor)))

    def _weights(self) -> dict[str, Tensor]:
        return {name: _bounded(name, F.softplus(raw) + 1e-8) for name, raw in self._raw.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that changes from step to step."""
        state = {f"raw.{name}": raw.detach().clone() for name, raw in self._raw.items()}
        state |= {f"first.{name}": loss.clone() for name, loss in self.first.items()}
        for name, raw in self._raw.items():
            held = self._optimizer.state.get(raw, {})
            state |= {f"{moment}.{name}": value.clone() for moment, value in held.items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from such a state."""
        self.first = {name: state[f"first.{name}"].clone() for name in self._raw if f"first.{name}" in state}
        for name, raw in self._raw.items():
            raw.data.copy_(state[f"raw.{name}"])
            held = {moment: f"{moment}.{name}" for moment in MOMENTS}
            if held["step"] in state:
                self._optimizer.state[raw] = {moment: state[key].clone() for moment, key in held.items()}


def _raw(weight: Tensor) -> Tensor:
    return weight.expm1().log()


def _bounded(name: str, weight: Tensor) -> Tensor:
    weight = weight.clamp(SMALLEST, LARGEST)
    return weight.clamp(min=ANSWER_FLOOR) if name == ANSWER_CE else weight

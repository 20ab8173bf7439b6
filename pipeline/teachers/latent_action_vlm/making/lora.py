"""Low-rank adapters of linear layers (Hu et al., 2021).

Dimension letters: I and O inputs and outputs of a layer, R rank.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.teachers.weights import uniform

if TYPE_CHECKING:
    from collections.abc import Iterator


class LowRankLinear(nn.Module):
    """A frozen linear layer, to whose weight a product of two small matrices is added.

    Args:
        layer: The layer, which is kept.
        rank: R.
        scale: Factor of the product.
        name: Decides, with the seed, the first values of one matrix; the other one is zero.
        seed: See ``name``.
    """

    def __init__(self, layer: nn.Linear, rank: int, scale: float, name: str, seed: int) -> None:
        super().__init__()
        self.layer, self.scale = layer, scale
        device = layer.weight.device
        drawn = uniform(name, (rank, layer.in_features), seed, "cpu").to(device)
        self.down = nn.Parameter((drawn * 2 - 1) * math.sqrt(3 / layer.in_features))
        """(R, I) float32."""
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank, device=device))
        """(O, R) float32."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Transform (..., I) to (..., O)."""
        low = F.linear(inputs, self.down.to(inputs.dtype))
        return self.layer(inputs) + self.scale * F.linear(low, self.up.to(inputs.dtype))

    @property
    def merged(self) -> Tensor:
        """(O, I) the layer's weight with the product, rounded to its own type."""
        return (self.layer.weight.float() + self.scale * self.up @ self.down).to(self.layer.weight.dtype)


def adapt(model: nn.Module, *, rank: int, alpha: float, seed: int) -> dict[str, nn.Parameter]:
    """Put adapters around all linear layers of a model, in place; return their weights by name.

    Args:
        model: Nothing else of it is trained.
        rank: R.
        alpha: The product counts alpha / R times.
        seed: Of the first values.
    """
    model.requires_grad_(False)
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    weights = {}
    for name, layer in layers:
        adapter = LowRankLinear(layer, rank, alpha / rank, name, seed)
        model.set_submodule(name, adapter)
        weights |= {f"{name}.down": adapter.down, f"{name}.up": adapter.up}
    return weights


def adapters(model: nn.Module) -> Iterator[tuple[str, LowRankLinear]]:
    """Yield the adapters of a model by the names of their layers."""
    for name, module in model.named_modules():
        if isinstance(module, LowRankLinear):
            yield name, module

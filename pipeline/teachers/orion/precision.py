"""Number formats that a teacher computes in: types of its parts, quantisation of its language model.

Source: spec ORION teacher 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cache_schema.errors import RequestError

if TYPE_CHECKING:
    from pipeline.teachers.orion.network.model import Orion

TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Precision -> type of the backbone and of the language model. The heads stay in float32."""

QUANTIZATIONS = ("int8", "nf4")
"""Of the weights of the language model's linear layers, by bitsandbytes."""

OUTLIER = 6.0
"""int8 multiplies input channels with larger values than this in float16, as LLM.int8 (arXiv:2208.07339)."""

_HALVED = ("img_backbone.", "language_model.")
_QUANTISED = "language_model.model.layers."


@dataclass(frozen=True)
class PrecisionConfig:
    """Precision and quantisation of a forward pass.

    Raises:
        RequestError: A name is unknown, or the two do not go together.
    """

    precision: str = "fp32"
    """A key of ``TYPES``."""
    quantize: str | None = None
    """One of ``QUANTIZATIONS``; None for none."""

    def __post_init__(self) -> None:
        if self.precision not in TYPES:
            raise RequestError(
                f"there is no precision {self.precision!r}",
                expected=f"one of {', '.join(TYPES)}",
                repair="choose one of these precisions",
            )
        if self.quantize not in (None, *QUANTIZATIONS):
            raise RequestError(
                f"there is no quantisation {self.quantize!r}",
                expected=f"one of {', '.join(QUANTIZATIONS)}, or none",
                repair="choose one of these quantisations",
            )
        if self.quantize == "int8" and self.precision != "fp16":
            raise RequestError(
                f"int8 does not go with {self.precision}",
                expected="fp16, to which int8 layers round whatever they are given",
                repair="choose the precision fp16, or the quantisation nf4",
            )

    @property
    def description(self) -> str:
        """The precision as the teacher's identity records it."""
        if self.precision == "fp32":
            return "fp32"
        return f"{self.precision} backbone and language model, fp32 heads"

    def place(self, model: Orion, name: str, weight: Tensor, device: str) -> None:
        """Give a model one float32 weight in the type it is computed with.

        Args:
            model: Without memory behind this weight.
            name: As in the model's state dict.
            weight: The whole weight. Adapters are merged into it: afterwards it would be too late.
            device: Where it goes.
        """
        path, _, leaf = name.rpartition(".")
        owner = model.get_submodule(path)
        dtype = TYPES[self.precision] if name.startswith(_HALVED) else torch.float32
        if self.quantize and name.startswith(_QUANTISED) and isinstance(owner, nn.Linear):
            model.set_submodule(path, _quantised(weight, self.quantize, dtype).to(device))
        else:
            setattr(owner, leaf, nn.Parameter(weight.to(device, dtype), requires_grad=False))


def _quantised(weight: Tensor, quantize: str, dtype: torch.dtype) -> nn.Module:
    """A linear layer that quantises its weight (outputs, inputs) when it is moved to a device."""
    # Takes seconds to import.
    from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt, Params4bit

    outputs, inputs = weight.shape
    with torch.device("meta"):
        if quantize == "int8":
            eight = Linear8bitLt(inputs, outputs, bias=False, has_fp16_weights=False, threshold=OUTLIER)
            eight.weight = Int8Params(weight, requires_grad=False)
            return eight.eval()
        four = Linear4bit(inputs, outputs, bias=False, compute_dtype=dtype)
    four.weight = Params4bit(
        weight.to(dtype),
        quant_type="nf4",  # ty: ignore[unknown-argument]  # it is taken by __new__
        compress_statistics=False,  # ty: ignore[unknown-argument]
        module=four,  # ty: ignore[unknown-argument]
    )
    # Not eval(): some CPUs would then repack the weight on first use, and multiply in bfloat16 whatever the
    # compute type is. Nothing else depends on it here.
    return four

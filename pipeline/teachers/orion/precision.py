"""Number formats that a teacher computes in: types of its parts, quantisation of its language model.

Source: spec ORION teacher 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from cache_schema.errors import RequestError
from pipeline.teachers.orion.network.attention import Attention
from pipeline.teachers.orion.network.backbone import GatedMLP
from pipeline.teachers.precision import TYPES, check_precision

if TYPE_CHECKING:
    from pipeline.teachers.orion.network.vision import VisionStack

QUANTIZATIONS = ("int8", "nf4", "fp8")
"""Of the language model's linear layers: int8 and nf4 by bitsandbytes, fp8 by tensor cores."""

OUTLIER = 6.0
"""int8 multiplies input channels with larger values than this in float16, as LLM.int8 (arXiv:2208.07339)."""

FP8_CAPABILITY = (8, 9)
"""CUDA compute capability from which on GPUs multiply fp8: Ada and Hopper."""

_HALVED = ("img_backbone.", "language_model.")
_RESIZED_ONCE = "img_backbone.pos_embed"
"""Stays in float32 until it has been resized."""
_QUANTISED = "language_model.model.layers."


@dataclass(frozen=True)
class PrecisionConfig:
    """Precision and quantisation of a forward pass.

    Raises:
        RequestError: A name is unknown, or the two do not go together.
    """

    precision: str = "fp32"
    """A key of ``TYPES``, of the backbone and of the language model. The heads stay in float32."""
    quantize: str | None = None
    """One of ``QUANTIZATIONS``; None for none."""

    def __post_init__(self) -> None:
        check_precision(self.precision)
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

    def description(self, device: str) -> str:
        """The precision on a device as the teacher's identity records it."""
        if self.precision == "fp32":
            return "fp32"
        heads = "fp32 heads"
        if self.rounds_heads(device):
            heads = "TF32 heads, fp16 in their attention"
        return f"{self.precision} backbone and language model, {heads}"

    @property
    def compiles(self) -> bool:
        """Whether the language model's layers can be compiled: those of bitsandbytes cannot."""
        return self.quantize in (None, "fp8")

    def place(self, model: VisionStack, name: str, weight: Tensor, device: str) -> None:
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
            model.set_submodule(path, _quantised(weight, self.quantize, dtype, device))
            return
        weight = weight.to(device, torch.float32 if name == _RESIZED_ONCE else dtype)
        above, _, linear = path.rpartition(".")
        if isinstance(mlp := model.get_submodule(above), GatedMLP):
            weight = mlp.padded(f"{linear}.{leaf}", weight)
        setattr(owner, leaf, nn.Parameter(weight, requires_grad=False))

    def prepare_heads(self, model: VisionStack, device: str) -> None:
        """Let the heads of a model on a GPU compute with tensor cores, where the rest is in 16 bits.

        Their linear maps round to TF32. All other matrix products stay in float32: poses in the world are
        thousands of metres. Their attention rounds to float16, which resolves what TF32 does; the released
        model's attention to images and to memories always does so (spec ORION teacher 5).
        """
        if not self.rounds_heads(device):
            return
        for module in model.modules():
            if isinstance(module, Attention):
                module.core = torch.float16
        # The direct children are linear layers and stacks of them; what multiplies poses are the heads.
        for head in (model.ray_positions, model.query_positions, model.pts_bbox_head, model.map_head):
            for linear_maps in head.children():
                linear_maps.register_forward_pre_hook(_allow_tf32)
                linear_maps.register_forward_hook(_forbid_tf32, always_call=True)

    def rounds_heads(self, device: str) -> bool:
        """Whether the heads on a device round as ``prepare_heads`` says."""
        return self.precision != "fp32" and torch.device(device).type == "cuda"


def _allow_tf32(*_: object) -> None:
    torch.set_float32_matmul_precision("high")


def _forbid_tf32(*_: object) -> None:
    torch.set_float32_matmul_precision("highest")


def check_device(config: PrecisionConfig, device: str) -> None:
    """Check that a device can compute so.

    Raises:
        RequestError: It cannot multiply fp8.
    """
    if config.quantize != "fp8" or torch.device(device).type != "cuda":
        return
    if torch.cuda.get_device_capability(device) < FP8_CAPABILITY:
        raise RequestError(
            f"{torch.cuda.get_device_name(device)} has no tensor cores for fp8",
            expected=f"compute capability {'.'.join(map(str, FP8_CAPABILITY))} or more, such as an H100",
            repair="choose the quantisation int8 or nf4, or none",
        )


class Fp8Linear(nn.Module):
    """A linear layer without bias in float8 (e4m3), with a scale for each row of its weight and of its input.

    Args:
        weight: (outputs, inputs), in any float type.
        dtype: Of what it returns.
    """

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        rows, scale = fp8_rows(weight)
        self.register_buffer("weight", rows)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs)."""
        rows, scale = fp8_rows(x.flatten(0, -2))
        weight, weight_scale = self.get_buffer("weight"), self.get_buffer("scale")
        product = torch._scaled_mm(rows, weight.t(), scale, weight_scale.t(), out_dtype=self.dtype)
        return product.unflatten(0, x.shape[:-1])


def fp8_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of x (n, m) as float8, and their scales (n, 1): x is about their product."""
    largest = torch.finfo(torch.float8_e4m3fn).max
    x = x.float()
    scale = x.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / largest
    return (x / scale).clamp(-largest, largest).to(torch.float8_e4m3fn), scale


def _quantised(weight: Tensor, quantize: str, dtype: torch.dtype, device: str) -> nn.Module:
    """Return a linear layer with a quantised weight (outputs, inputs) on a device."""
    if quantize == "fp8":
        return Fp8Linear(weight.to(device), dtype)
    return _by_bitsandbytes(weight, quantize, dtype).to(device)


def _by_bitsandbytes(weight: Tensor, quantize: str, dtype: torch.dtype) -> nn.Module:
    """Return a linear layer that quantises its weight (outputs, inputs) when it is moved to a device."""
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

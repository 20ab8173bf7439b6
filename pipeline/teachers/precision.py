"""Number formats that teachers compute in, and the order in which they add up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from cache_schema.errors import RequestError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Precision -> type of the weights of a teacher's large parts."""


def compute_exact_float32() -> None:
    """Have this process compute float32 in float32, whatever the environment and cuDNN's own defaults say."""
    # The first line is the default of what nobody sets, the others what TORCH_ALLOW_TF32_CUBLAS_OVERRIDE and
    # cuDNN set: products of matrices, convolutions, and recurrent networks such as the planner's.
    torch.backends.fp32_precision = "ieee"  # ty: ignore[missing-attribute]  # the module is an object
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False


def attention_in_fixed_order() -> AbstractContextManager[None]:
    """Return a context in which attention is computed by kernels with the same bits from run to run.

    cuDNN, torch's first choice on Hopper GPUs, splits the keys of a single query among processors, and adds
    up what they find in no fixed order. For many queries it does not.
    """
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


def check_precision(precision: str) -> None:
    """Check that a precision is one of ``TYPES``.

    Raises:
        RequestError: It is not.
    """
    if precision not in TYPES:
        raise RequestError(
            f"there is no precision {precision!r}",
            expected=f"one of {', '.join(TYPES)}",
            repair="choose one of these precisions",
        )


def check_supported(teacher: str, precision: str, quantize: str | None) -> None:
    """Check the precision of a teacher that comes in each of ``TYPES``, and quantised in no way.

    Raises:
        RequestError: It does not come so.
    """
    check_precision(precision)
    if quantize is not None:
        raise RequestError(
            f"the teacher {teacher} does not come quantised as {quantize}",
            expected="no quantisation: what it does to the features has not been measured",
            repair="leave --quantize out, or choose --precision bf16",
        )

"""Number formats that teachers compute in."""

from __future__ import annotations

import torch

TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Precision -> type of the weights of a teacher's large parts."""


def compute_exact_float32() -> None:
    """Have this process compute float32 in float32, whatever the environment and cuDNN's own defaults say."""
    # The first line is the default of what nobody sets, the others what TORCH_ALLOW_TF32_CUBLAS_OVERRIDE and
    # cuDNN set: products of matrices, convolutions, and recurrent networks such as the planner's.
    torch.backends.fp32_precision = "ieee"  # ty: ignore[missing-attribute]  # the module is an object
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False

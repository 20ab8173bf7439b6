"""Speed of matrix products in the precisions that a teacher computes in."""

from __future__ import annotations

import statistics
import time

import torch

from pipeline.teachers.precision import TYPES


def peak_flops_per_s(precision: str, device: str) -> float:
    """Return the floating-point operations per second of one large square matrix product."""
    side, repeats = (8192, 20) if device == "cuda" else (2048, 5)
    return _matmul_flops_per_s(precision, device, side, repeats)


def faster_than_fp32(precision: str) -> bool:
    """Return whether this CPU is faster in a precision than in float32: a precision may be emulated."""
    return _matmul_flops_per_s(precision, "cpu", 512, 5) > _matmul_flops_per_s("fp32", "cpu", 512, 5)


def _matmul_flops_per_s(precision: str, device: str, side: int, repeats: int) -> float:
    a, b = (torch.randn(side, side, device=device, dtype=TYPES[precision]) for _ in range(2))
    took_s = []
    for _ in range(repeats):
        begun = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        took_s.append(time.perf_counter() - begun)
    return 2 * side**3 / statistics.median(took_s[1:])

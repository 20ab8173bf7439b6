"""What the arithmetic of a machine can do: matrix products in the precisions that a teacher computes in."""

from __future__ import annotations

import statistics
import time

import torch

from pipeline.teachers.orion.precision import TYPES


def ceiling(precision: str, device: str) -> float:
    """Operations a second of one large square matrix product."""
    side, repeats = (8192, 20) if device == "cuda" else (2048, 5)
    return _product(precision, device, side, repeats)


def pays(precision: str) -> bool:
    """Whether a CPU is faster in a precision than in float32. One that it has to imitate is far slower."""
    return _product(precision, "cpu", 512, 5) > _product("fp32", "cpu", 512, 5)


def _product(precision: str, device: str, side: int, repeats: int) -> float:
    a, b = (torch.randn(side, side, device=device, dtype=TYPES[precision]) for _ in range(2))
    took_s = []
    for _ in range(repeats):
        begun = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        took_s.append(time.perf_counter() - begun)
    return 2 * side**3 / statistics.median(took_s[1:])

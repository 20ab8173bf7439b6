"""SwiGLU and the layer norm behind it; on a GPU in one pass over the memory.

What separate operations, and torch's compiler, make of it goes over the hidden channels more than once: they
keep no row of this length in registers. This kernel reads and writes each number once. The order of its sums
is fixed.

Dimension letters: H hidden channels, C channels of padded weights.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, empty_like
from torch.library import triton_op, wrap_triton

from pipeline.teachers.orion.network.kernels import HAS_TRITON

if HAS_TRITON:
    import triton  # ty: ignore
    import triton.language as tl  # ty: ignore

    WARPS = 4
    """Of 32 threads each, for a row."""

    @triton.jit
    def _kernel(
        gate,
        value,
        scale,
        shift,
        out,
        EPS: tl.constexpr,  # noqa: N803
        HIDDEN: tl.constexpr,  # noqa: N803
        WIDTH: tl.constexpr,  # noqa: N803
        BLOCK: tl.constexpr,  # noqa: N803
    ):
        channel = tl.arange(0, BLOCK)
        # The mask of loads and stores is aligned, or else they would move one number at a time.
        stored, inside = channel < WIDTH, channel < HIDDEN
        place = tl.program_id(0).to(tl.int64) * WIDTH + channel
        gates = tl.load(gate + place, mask=stored, other=0.0)
        values = tl.load(value + place, mask=stored, other=0.0).to(tl.float32)
        x = gates.to(tl.float32)
        # Rounded where separate operations round.
        silu = (x / (1.0 + tl.exp(-x))).to(gates.dtype).to(tl.float32)
        gated = tl.where(inside, (silu * values).to(gates.dtype).to(tl.float32), 0.0)
        centred = tl.where(inside, gated - tl.sum(gated) / HIDDEN, 0.0)
        normed = centred * tl.rsqrt(tl.sum(centred * centred) / HIDDEN + EPS)
        # Read last, and by every row: kept in registers, they would leave room for half as many rows at once.
        scales = tl.load(scale + channel, mask=inside, other=0.0).to(tl.float32)
        shifts = tl.load(shift + channel, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + place, (normed * scales + shifts).to(gates.dtype), mask=stored)

    @triton_op("teachonce::gated_norm", mutates_args={})
    def _in_one_pass(gate: Tensor, value: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
        out, width = empty_like(gate), gate.shape[-1]
        wrap_triton(_kernel)[(gate.numel() // width,)](
            gate,
            value,
            scale,
            shift,
            out,
            EPS=eps,  # as an argument it would be float64 in a compiled graph, and so would the output
            HIDDEN=len(scale),
            WIDTH=width,
            BLOCK=triton.next_power_of_2(width),
            num_warps=WARPS,
        )
        return out


def gated_norm(gate: Tensor, value: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """Return the layer norm of silu(gate) * value over the first H channels, and zeros behind: (..., C).

    Args:
        gate: (..., C), contiguous.
        value: (..., C), contiguous.
        scale: (H) of the norm.
        shift: (H) of the norm.
        eps: Added to the variance.
    """
    if gate.is_cuda and HAS_TRITON:
        return _in_one_pass(gate, value, scale, shift, eps)
    hidden = len(scale)
    normed = F.layer_norm((F.silu(gate) * value)[..., :hidden], (hidden,), scale, shift, eps)
    beyond = gate.shape[-1] - hidden
    return F.pad(normed, (0, beyond)) if beyond else normed

"""Attention within the windows of an image; on a GPU in one kernel, without copies of the windows.

Separate operations write rotated queries and keys, cut everything into windows padded with zeros, attend to
the padding too, and put the windows together again. This kernel reads every token once for each block of
queries, and writes it once. The order of its sums is fixed.

Dimension letters: N images, H W token rows and columns, D width, E head width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.library import triton_op, wrap_triton

from pipeline.teachers.orion.network.kernels import HAS_TRITON

if HAS_TRITON:
    import triton  # ty: ignore
    import triton.language as tl  # ty: ignore

    QUERIES, KEYS, WARPS, STAGES = 128, 64, 4, 3
    """Queries of a program, keys that it reads at once, its warps of 32 threads, and reads under way.

    Of twelve choices these were the fastest on an H200.
    """

    @triton.jit
    def _places(position, columns, STRIDE: tl.constexpr, WIDTH: tl.constexpr, E: tl.constexpr):  # noqa: N803
        """Return where the channels of tokens are that are counted by rows of ``columns``."""
        token = position // columns * STRIDE + position % columns
        return (token * WIDTH)[:, None] + tl.arange(0, E)

    @triton.jit
    def _rotate(x, cos, sin):
        """Rotate each pair of adjacent channels; cos and sin are those of pairs."""
        a, b = tl.split(tl.reshape(x.to(tl.float32), (x.shape[0], x.shape[1] // 2, 2)))
        return tl.reshape(tl.join(a * cos - b * sin, b * cos + a * sin), x.shape).to(x.dtype)

    @triton.jit
    def _kernel(
        q,
        k,
        v,
        cos,
        sin,
        out,
        GRID: tl.constexpr,  # noqa: N803
        SIZE: tl.constexpr,  # noqa: N803
        HEADS: tl.constexpr,  # noqa: N803
        E: tl.constexpr,  # noqa: N803
        SCALE: tl.constexpr,  # noqa: N803
        QUERIES: tl.constexpr,  # noqa: N803
        KEYS: tl.constexpr,  # noqa: N803
    ):
        across: tl.constexpr = (GRID + SIZE - 1) // SIZE
        window = tl.program_id(1)
        image, top, left = (
            window // across // across,
            window // across % across * SIZE,
            window % across * SIZE,
        )
        head, first = tl.program_id(0) % HEADS, tl.program_id(0) // HEADS * QUERIES
        # The part of the window inside the image, whose tokens are counted row by row.
        columns = min(SIZE, GRID - left)
        count = min(SIZE, GRID - top) * columns
        if first >= count:
            return
        corner = ((image * GRID + top) * GRID + left).to(tl.int64) * (HEADS * E) + head * E

        asking = first + tl.arange(0, QUERIES)
        asks = (asking < count)[:, None]
        query_at = corner + _places(asking, columns, GRID, HEADS * E, E)
        turn = _places(asking, columns, SIZE, E // 2, E // 2)
        query = tl.load(q + query_at, mask=asks, other=0.0)
        query = _rotate(
            query, tl.load(cos + turn, mask=asks, other=0.0), tl.load(sin + turn, mask=asks, other=0.0)
        )

        # Keys beyond the image are zero: each has the score 0, and no value.
        padding = SIZE * SIZE - count
        largest = tl.zeros((QUERIES,), tl.float32) + tl.where(padding > 0, 0.0, float("-inf"))
        total = tl.zeros((QUERIES,), tl.float32) + padding
        mixed = tl.zeros((QUERIES, E), tl.float32)
        for start in range(0, count, KEYS):
            read = start + tl.arange(0, KEYS)
            inside = read < count
            reads = inside[:, None]
            key_at = corner + _places(read, columns, GRID, HEADS * E, E)
            key_turn = _places(read, columns, SIZE, E // 2, E // 2)
            key = tl.load(k + key_at, mask=reads, other=0.0)
            value = tl.load(v + key_at, mask=reads, other=0.0)
            key = _rotate(
                key,
                tl.load(cos + key_turn, mask=reads, other=0.0),
                tl.load(sin + key_turn, mask=reads, other=0.0),
            )
            scores = tl.where(inside[None], tl.dot(query, tl.trans(key)) * SCALE, float("-inf"))
            larger = tl.maximum(largest, tl.max(scores, 1))
            weights, shrunk = tl.exp2(scores - larger[:, None]), tl.exp2(largest - larger)
            total = total * shrunk + tl.sum(weights, 1)
            mixed = tl.dot(weights.to(value.dtype), value, mixed * shrunk[:, None])
            largest = larger
        tl.store(out + query_at, (mixed / total[:, None]).to(query.dtype), mask=asks)

    @triton_op("teachonce::window_attention", mutates_args={})
    def _in_one_kernel(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, size: int) -> Tensor:
        images, grid, _, width = q.shape
        out, head_width = torch.empty_like(q), 2 * cos.shape[-1]
        heads, windows = width // head_width, images * math.ceil(grid / size) ** 2
        wrap_triton(_kernel)[(heads * math.ceil(size**2 / QUERIES), windows)](
            q,
            k,
            v,
            cos,
            sin,
            out,
            GRID=grid,
            SIZE=size,
            HEADS=heads,
            E=head_width,
            SCALE=math.log2(math.e) / math.sqrt(head_width),
            QUERIES=QUERIES,
            KEYS=KEYS,
            num_warps=WARPS,
            num_stages=STAGES,
        )
        return out


def one_kernel_attends(q: Tensor, heads: int) -> bool:
    """Return whether ``window_attention`` serves queries (N, H, W, D): on a GPU, without gradients.

    Numbers have 16 bits, and heads a power of two of channels, of which a product needs 16.
    """
    width = q.shape[-1] // heads
    served = HAS_TRITON and q.is_cuda and q.element_size() == 2 and not torch.is_grad_enabled()
    return served and width >= 16 and width.bit_count() == 1


def window_attention(q: Tensor, k: Tensor, v: Tensor, rotation: tuple[Tensor, Tensor], size: int) -> Tensor:
    """Attend within windows, the last of which are padded with zero tokens that are attended to.

    Args:
        q: (N, H, W, D) for which ``one_kernel_attends``, contiguous; as many rows as columns.
        k: Likewise.
        v: Likewise.
        rotation: Cosines and sines, each (H, W, 1, E), by which queries and keys are rotated here. They are
            the same in every window, and for both channels of a pair.
        size: Height and width of a window, in tokens.

    Returns:
        (N, H, W, D).
    """
    cos, sin = (turns[:size, :size, 0, ::2].contiguous() for turns in rotation)
    return _in_one_kernel(q, k, v, cos, sin, size)

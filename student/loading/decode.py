"""From stored values to the values of a feature, on the device where they are.

Dimension letters: B sample of a batch, C channel, K axis of a ragged value, V stored value.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from cache_schema.format.encodings import SCALE
from student.loading.ragged import Ragged

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from cache_schema.format.features import FeatureSpec


def decoded(spec: FeatureSpec, stored: Mapping[str, Tensor], into: Tensor | None = None) -> Tensor:
    """Turn stored values into the values of a feature that is not ragged, on the device where they are.

    Args:
        spec: The feature.
        stored: (B, *shape) for each of ``stored_arrays(spec)``, by its name.
        into: (B, *shape) float32 memory for floating-point values; new memory by default.

    Returns:
        (B, *shape) float32, int64, uint8 or bool, in memory of its own.
    """
    values = stored[spec.name]
    if spec.encoding == "lower-triangle":
        return unpack_triangles(decoded_values(spec, values), spec.fixed_shape[-1])
    if spec.encoding == "int8-per-channel":
        into = torch.empty(values.shape, device=values.device) if into is None else into
        scale = stored[spec.name + SCALE]  # (B, C)
        return into.copy_(values).mul_(scale.view(len(scale), *(1,) * (values.dim() - 2), -1))
    return decoded_values(spec, values, into)


def decoded_ragged(spec: FeatureSpec, stored: Tensor, shapes: Tensor) -> Ragged:
    """Turn the stored values (V) of samples of these shapes (B, K) into the values of a ragged feature."""
    values = decoded_values(spec, stored)
    if spec.encoding == "lower-triangle":
        values = unpack_ragged_triangles(values, shapes)
    return Ragged(values, shapes)


def decoded_values(spec: FeatureSpec, values: Tensor, into: Tensor | None = None) -> Tensor:
    """Turn stored values, in an encoding without scales, into float32, int64, uint8 or bool."""
    if spec.encoding == "bfloat16":
        values = values.view(torch.bfloat16)
    if values.is_floating_point():
        into = torch.empty(values.shape, device=values.device) if into is None else into
        return into.copy_(values)
    if values.dtype in (torch.bool, torch.uint8):
        return values.clone()
    whole = values.to(torch.int64, copy=True)
    return whole & 0xFFFF if spec.dtype == "uint16" else whole


def unpack_triangles(packed: Tensor, side: int) -> Tensor:
    """Fill lower triangles (..., side (side + 1) / 2), each row by row, up to squares (..., side, side).

    Above the diagonal there are zeros.
    """
    row, column = torch.tril_indices(side, side, device=packed.device)
    squares = packed.new_zeros(*packed.shape[:-1], side, side)
    squares[..., row, column] = packed
    return squares


def unpack_ragged_triangles(packed: Tensor, shapes: Tensor) -> Tensor:
    """Fill the lower triangles of samples of different shapes up to squares.

    Args:
        packed: (V) the triangles, row by row, of all squares of all samples.
        shapes: (B, K) int64 shapes of the samples' values, whose last two axes are equal, on the host.

    Returns:
        (sum of the shapes' products), one sample after the other.
    """
    squares, begin = [packed[:0]], 0
    for *leading, side, _ in shapes.tolist():
        count, size = math.prod(leading), side * (side + 1) // 2
        triangles = packed[begin : begin + count * size].view(count, size)
        squares.append(unpack_triangles(triangles, side).flatten())
        begin += count * size
    return torch.cat(squares)

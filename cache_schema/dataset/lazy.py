"""Arrays of many clips as one dask array: values are read, checked and decoded when they are computed."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import numpy as np
from dask.array.core import Array

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def lazy_array(
    read: Callable[[str, str, int, slice], np.ndarray],
    feature: str,
    clips: Sequence[str],
    lengths: Sequence[int],
    block_length: int,
    shape: tuple[int, ...],
    dtype: str,
) -> Array:
    """Return the elements of all clips along the first axis, cut into blocks that cross no clip.

    Args:
        read: Returns some elements of a feature of a clip, which must have as many as it had before.
        feature: Name of the feature.
        clips: Names of the clips.
        lengths: Elements of each.
        block_length: Most elements of a block.
        shape: Shape of one element.
        dtype: Their type.
    """
    # A name of its own: a clip may be made again between two arrays of one session.
    name = f"teachonce-{uuid.uuid4().hex}"
    graph, blocks = {}, []
    for clip, length in zip(clips, lengths, strict=True):
        for begin in range(0, length, block_length):
            part = slice(begin, min(length, begin + block_length))
            graph[(name, len(blocks), *(0 for _ in shape))] = (read, clip, feature, length, part)
            blocks.append(part.stop - begin)
    if not blocks:
        graph[(name, *(0 for _ in range(1 + len(shape))))] = np.empty((0, *shape), dtype)
    chunks = (tuple(blocks) or (0,), *((length,) for length in shape))
    return Array(graph, name, chunks, meta=np.empty((0,) * (1 + len(shape)), dtype))

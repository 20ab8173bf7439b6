"""Token sequences of one length, and where their tokens are: in time, and in the rows and columns of images.

Sequences are padded on the left, to a length that does not depend on the others of their batch: kernels round
differently for another one. Positions are this module's own, because the library's silently fall back to one
dimension where they are not told which tokens are of images (spec LatentVLA 3).

Dimension letters: B sequences, S tokens of one with its padding, h and w rows and columns of an image's
tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from cache_schema.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class Sequences(NamedTuple):
    """A batch of prompts."""

    ids: Tensor
    """(B, S) int64; 0 for padding."""
    valid: Tensor
    """(B, S) bool, False for padding."""
    positions: Tensor
    """(3, B, S) int64: time, row and column; 0 for padding."""
    next_position: Tensor
    """(B) int64, of the token behind the prompt, in all three directions."""


def sequences(
    prompts: Sequence[Sequence[int]], length: int, image_token: int, grid: tuple[int, int]
) -> Sequences:
    """Stack prompts, and place their tokens.

    Args:
        prompts: (B) token ids each.
        length: S, at least as long as the longest prompt.
        image_token: Id that stands for a token of an image.
        grid: h and w.

    Raises:
        RequestError: A prompt is longer, or has other than whole images in it.
    """
    ids = torch.zeros(len(prompts), length, dtype=torch.int64)
    valid = torch.zeros(len(prompts), length, dtype=torch.bool)
    places = torch.zeros(3, len(prompts), length, dtype=torch.int64)
    following = torch.zeros(len(prompts), dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        begin = length - len(prompt)
        if begin < 0:
            raise RequestError(
                f"a prompt has {len(prompt)} tokens",
                expected=f"at most {length}",
                repair="give sequences more room",
            )
        ids[row, begin:] = torch.tensor(prompt)
        valid[row, begin:] = True
        places[:, row, begin:] = positions(ids[row, begin:], image_token, grid)
        following[row] = places[:, row].max() + 1
    return Sequences(ids, valid, places, following)


def positions(ids: Tensor, image_token: int, grid: tuple[int, int]) -> Tensor:
    """Return (3, N) int64: time, row and column of the tokens of a sequence (N).

    A token of text is one further than all before it, in all directions. An image spreads over rows and
    columns from there, and takes no time.

    Raises:
        RequestError: It has other than whole images in it, each between tokens of text.
    """
    h, w = grid
    image = torch.stack(
        (
            torch.zeros(h * w, dtype=torch.int64),
            torch.arange(h).repeat_interleave(w),
            torch.arange(w).repeat(h),
        )
    )
    parts, position, token = [], 0, 0
    seen = (ids == image_token).tolist()
    while token < len(seen):
        run = next((n for n in range(token, len(seen)) if seen[n] != seen[token]), len(seen)) - token
        if not seen[token]:
            parts.append(torch.arange(position, position + run).expand(3, run))
            position += run
        elif run == h * w:
            parts.append(position + image)
            position += max(h, w)
        else:
            raise RequestError(
                f"a prompt has {run} tokens of an image in a row",
                expected=f"{h * w}: {h} rows and {w} columns",
                repair="give images their width and height of pixels, 28 a token",
            )
        token += run
    return torch.cat(parts, dim=1)

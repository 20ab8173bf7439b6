"""What to do where a GPU's memory does not suffice."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch

from cache_schema.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Generator


@contextlib.contextmanager
def must_suffice_for(slots: int) -> Generator[None]:
    """Compute a teacher's steps inside.

    Raises:
        RequestError: The GPU's memory does not suffice.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RequestError(
            f"the GPU's memory does not suffice for {slots} slots: {error}",
            expected=f"room for the teacher and what it computes of {slots} clips at a time",
            repair="use fewer --slots; or another --precision or --quantize, which changes the features. "
            "What was committed is safe",
        ) from error

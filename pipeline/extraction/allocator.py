"""What becomes of memory between two frames."""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's ``mallopt``, as its ``malloc.h`` numbers them."""
KEPT_BYTES = 2**30
"""Free memory at the end of a heap that is kept; more than a frame's images and tensors."""
LARGEST_HEAP_BYTES = 2**25
"""What is larger has pages of its own; glibc allows no more than this."""


def keep_freed_memory() -> None:
    """Have this process keep the blocks that it frees, up to ``LARGEST_HEAP_BYTES``, from now on.

    Every frame takes and frees the same megabytes. A worker of dask gives them back to the kernel each time,
    and waits for new, empty pages, unless it is told otherwise. Without glibc nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(MMAP_THRESHOLD, LARGEST_HEAP_BYTES)
        mallopt(TRIM_THRESHOLD, KEPT_BYTES)

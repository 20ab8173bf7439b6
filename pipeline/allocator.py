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
    """Have this process keep the memory that it frees, where it runs on glibc.

    Every frame takes and frees the same megabytes. By default a worker of dask gives them back to the kernel
    each time, and waits for new, empty pages: a third of the time of decoding an image.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(MMAP_THRESHOLD, LARGEST_HEAP_BYTES)
        mallopt(TRIM_THRESHOLD, KEPT_BYTES)

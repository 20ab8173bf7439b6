"""Memory that is freed between two steps stays with the process."""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's ``mallopt``, as its ``malloc.h`` numbers them."""
KEPT_BYTES = 2**30
"""Free memory at the end of a heap that is kept; more than the inputs and tensors of a step."""
LARGEST_HEAP_BYTES = 2**25
"""Larger blocks have pages of their own; glibc allows no larger threshold."""


def keep_freed_memory() -> None:
    """Have this process keep the blocks that it frees, up to ``LARGEST_HEAP_BYTES``, from now on.

    Every step takes and frees the same megabytes. By default a worker of dask gives them back to the kernel
    each time, and waits for new, empty pages. Without glibc nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(MMAP_THRESHOLD, LARGEST_HEAP_BYTES)
        mallopt(TRIM_THRESHOLD, KEPT_BYTES)

"""Freed memory that a process keeps, by the page faults that it no longer has."""

import os
import platform
import subprocess
import sys

import pytest

BLOCKS, PAGES_A_BLOCK = 50, 256  # less than a huge page, which has but one fault
SCRIPT = f"""
import resource
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from pipeline.extraction.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range({BLOCKS}):
        np.ones({PAGES_A_BLOCK} * resource.getpagesize(), np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with ThreadPoolExecutor(1) as pool:  # images are decoded in threads, which have heaps of their own
    print(pool.submit(faults).result())
    keep_freed_memory()
    print(pool.submit(faults).result())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have no such setting")
def test_a_process_that_trims_like_a_worker_of_dask_stops_trimming():
    environment = os.environ | {"MALLOC_TRIM_THRESHOLD_": "65536"}
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, check=True, capture_output=True, text=True
    )
    trimming, keeping = map(int, run.stdout.split())
    assert trimming >= BLOCKS * PAGES_A_BLOCK
    assert keeping <= 2 * PAGES_A_BLOCK  # the first block's, at most twice

"""The processors that this process may use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

CGROUPS = Path("/sys/fs/cgroup")
"""Where Linux shows control groups of version 2."""
MEMBERSHIP = Path("/proc/self/cgroup")
"""Names the group of this process, in a line ``0::/path``."""


def usable_processors() -> int:
    """Return how many processors this process may keep busy; at least one.

    The machine may have more: ``taskset`` and SLURM bind a process to some of them, and a container has a
    quota of their time.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([bound, *_quotas()]))


def _quotas() -> Iterator[int]:
    """Yield the processors that the group of this process, and each group around it, may keep busy."""
    lines = MEMBERSHIP.read_text().splitlines() if MEMBERSHIP.exists() else []
    for group in (CGROUPS / line.removeprefix("0::/") for line in lines if line.startswith("0::/")):
        for folder in (group, *group.parents):
            limit = folder / "cpu.max"
            if folder.is_relative_to(CGROUPS) and limit.is_file():
                quota, period = limit.read_text().split()
                if quota != "max":
                    yield round(int(quota) / int(period))

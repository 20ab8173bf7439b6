"""Threads are as many as the processors that a process may use, not as the machine has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cache_schema import processors
from cache_schema.processors import usable_processors


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes are not bound to processors here")
def test_a_process_that_is_bound_to_one_processor():
    code = (
        "import os; from cache_schema.processors import usable_processors\n"
        "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "assert usable_processors() == 1"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def groups(tmp_path: Path, monkeypatch) -> Path:
    """A job in a container: 16 processors, of which neither the machine nor its groups allow all."""
    monkeypatch.setattr(processors, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(processors, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    (tmp_path / "membership").write_text("1:cpu:/elsewhere\n0::/node/job\n")
    (tmp_path / "cgroup" / "node" / "job").mkdir(parents=True)
    return tmp_path / "cgroup"


@pytest.mark.parametrize(
    ("around", "own", "usable"),
    [
        ("max 100000", "max 100000", 16),
        ("max 100000", "300000 100000", 3),
        ("200000 100000", "max 100000", 2),
        ("200000 100000", "50000 100000", 1),
        ("6400000 100000", "max 100000", 16),
    ],
)
def test_the_smallest_quota_counts(groups, around, own, usable):
    (groups / "node" / "cpu.max").write_text(f"{around}\n")
    (groups / "node" / "job" / "cpu.max").write_text(f"{own}\n")
    assert usable_processors() == usable


def test_without_control_groups(groups):
    assert usable_processors() == 16
    processors.MEMBERSHIP.unlink()
    assert usable_processors() == 16

"""Where a benchmark ran, and where its numbers go."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Mapping

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("torch", "numpy", "pillow", "zarr", "tensorstore", "safetensors", "accelerate", "distributed")
"""Libraries that decide speeds."""


def hardware() -> str:
    """The GPU's name; without one, the CPU's and the number of its cores."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    listed = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", listed.read_text()) if listed.exists() else None
    return f"{found[1] if found else platform.processor()}, {os.cpu_count()} cores"


def write(name: str, numbers: Mapping[str, object], out: Path | None = None) -> None:
    """Write a benchmark's numbers as JSON, with the hardware and the libraries named.

    Args:
        name: The benchmark.
        numbers: What it measured.
        out: The file; by default one in ``benchmarks/results`` that is named after benchmark and hardware.
    """
    slug = re.sub(r"\W+", "-", hardware().lower()).strip("-")
    out = out or RESULTS / f"{name}-{slug}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    versions = {library: importlib.metadata.version(library) for library in LIBRARIES}
    record = {"hardware": hardware(), "libraries": versions, **numbers}
    out.write_text(json.dumps(record, indent=1) + "\n")
    Console().print(f"written to {out}")

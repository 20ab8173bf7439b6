"""The hardware that a benchmark ran on, and the file that its results are written to."""

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
"""Libraries whose versions decide the speed."""


def hardware() -> str:
    """Return the name of the GPU; without one, that of the CPU and its number of cores."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return f"{model[1] if model else platform.processor()}, {os.cpu_count()} cores"


def write(name: str, results: Mapping[str, object], out: Path | None = None) -> None:
    """Write the results of a benchmark as JSON, with the hardware and the versions of the libraries.

    Args:
        name: Name of the benchmark.
        results: What it measured.
        out: The file; by default one in ``benchmarks/results`` that is named after benchmark and hardware.
    """
    slug = re.sub(r"\W+", "-", hardware().lower()).strip("-")
    out = out or RESULTS / f"{name}-{slug}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    versions = {library: importlib.metadata.version(library) for library in LIBRARIES}
    record = {"hardware": hardware(), "libraries": versions, **results}
    out.write_text(json.dumps(record, indent=1) + "\n")
    Console().print(f"written to {out}")

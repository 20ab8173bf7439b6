"""The hardware that a benchmark ran on, and the file that its results are written to, number by number."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cache_schema.storage.atomic_io import write_durably

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


def versions() -> dict[str, str | None]:
    """Return the versions of the libraries; None for one that this machine lacks."""
    found: dict[str, str | None] = {}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            found[library] = None
    return found


class Record:
    """The results of a benchmark, in a file that is whole after every number.

    The file is made at once, so that a place that cannot be written is an error before anything is measured.

    Args:
        name: Name of the benchmark.
        out: The file; by default one in ``benchmarks/results`` that is named after benchmark and hardware.
        quick: It measures less than the records there, which it must not replace.
        facts: What is known before anything is measured, such as sizes.
    """

    def __init__(self, name: str, out: Path | None = None, *, quick: bool = False, **facts: object) -> None:
        slug = re.sub(r"\W+", "-", hardware().lower()).strip("-")
        self.path = (out or RESULTS / f"{'quick-' * quick}{name}-{slug}.json").absolute()
        self._begun = time.perf_counter()
        self._content: dict[str, Any] = {"hardware": hardware(), "libraries": versions(), **facts}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._write()

    @property
    def content(self) -> Mapping[str, Any]:
        """What has been written."""
        return self._content

    def set(self, *keys: str, value: object, line: str = "") -> None:
        """Write a value.

        Args:
            keys: Where it stands in the file: names of nested objects, the last one its own.
            value: Anything that JSON holds.
            line: What is printed of it; nothing if empty.
        """
        content = self._content
        for key in keys[:-1]:
            content = content.setdefault(key, {})
        content[keys[-1]] = value
        self._write()
        if line:
            print(f"{time.perf_counter() - self._begun:7.1f} s  {line}", flush=True)

    def add(self, *keys: str, value: object, line: str = "") -> None:
        """Write one more value of a list; see ``set``."""
        content: Any = self._content
        for key in keys:
            content = content.get(key, {})
        self.set(*keys, value=[*content, value], line=line)

    def _write(self) -> None:
        write_durably(self.path, (json.dumps(self._content, indent=1) + "\n").encode())

"""The offline stage: sources of raw clips, teachers, and the extraction of latent datasets."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.extraction.run import extract
    from pipeline.source import Source
    from pipeline.teachers.protocol import Teacher

__all__ = ["Source", "Teacher", "extract"]

_MODULES = {
    "Source": "pipeline.source",
    "Teacher": "pipeline.teachers.protocol",
    "extract": "pipeline.extraction.run",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: importing the package loads nothing slow."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)

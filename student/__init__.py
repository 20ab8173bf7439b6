"""The light stage: students are trained from latent datasets alone, evaluated, exported and reported."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from student.runs.config import RunConfig
    from student.runs.evaluate import evaluate
    from student.system import System
    from student.training.train import train

__all__ = ["RunConfig", "System", "evaluate", "train"]

_HOME = {
    "RunConfig": "student.runs.config",
    "System": "student.system",
    "evaluate": "student.runs.evaluate",
    "train": "student.training.train",
}


def __getattr__(name: str) -> Any:
    # Loaded when they are used: training needs torch, which takes seconds.
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Folders of ``.safetensors`` files, as the repositories of transformers' models have them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from cache_schema.errors import CheckpointError
from pipeline.teachers.weights import refuse_placeholder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import ExitStack
    from pathlib import Path

SINGLE = "model.safetensors"
"""The file of a folder that has one."""
INDEX = "model.safetensors.index.json"
"""The file that says of each tensor in which of several files it is."""


def weight_files(folder: Path) -> tuple[list[Path], tuple[str, ...]]:
    """Return the files of a folder, sorted, and the tensors that its index promises: none without an index.

    Raises:
        CheckpointError: The index cannot be read.
    """
    index = folder / INDEX
    if not index.exists():
        return [folder / SINGLE], ()
    try:
        named: Mapping[str, str] = json.loads(index.read_bytes())["weight_map"]
        return sorted({folder / name for name in named.values()}), tuple(named)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise unreadable(index, error) from error


def opened(file: Path, stack: ExitStack) -> Any:
    """Open a file until the stack is closed.

    Raises:
        CheckpointError: It is missing, damaged, or what a download leaves in its place.
    """
    refuse_placeholder(file)
    try:
        return stack.enter_context(safe_open(file, "pt"))
    except (OSError, SafetensorError) as error:
        raise unreadable(file, error) from error


def unreadable(file: Path, error: Exception) -> CheckpointError:
    """Return the error of a file that cannot be read."""
    return CheckpointError(
        f"{file} cannot be read: {error}",
        expected="a whole file of the checkpoint",
        repair="download it again, and compare its size",
    )

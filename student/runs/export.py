"""A trained student as one file of weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import save_file

from cache_schema.storage.atomic_io import new_file
from student.runs.checkpoint import read_checkpoint

if TYPE_CHECKING:
    from pathlib import Path


def export(run: Path, target: Path) -> Path:
    """Write the newest checkpoint's weights under their released names.

    The file's metadata ``teachonce`` is the checkpoint's description as JSON: configuration, epochs, and the
    dataset and teacher behind it.

    Args:
        run: Folder of a training run.
        target: File to write; it must not exist.

    Returns:
        ``target``.

    Raises:
        CheckpointError: The run has no readable checkpoint.
        RequestError: The file is there already, its folder is not, or it cannot be written.
    """
    checkpoint, weights = read_checkpoint(run)
    metadata = {"format": "pt", "teachonce": checkpoint.model_dump_json()}
    with new_file(target, SafetensorError) as file:
        save_file(weights, file, metadata=metadata)
    return target

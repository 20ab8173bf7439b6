"""A trained student as one file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import save_file

from cache_schema.durable import rename_durably, sync
from cache_schema.errors import RequestError
from student.checkpoint import read_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


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
    try:
        return _write(target, weights, metadata)
    except (OSError, SafetensorError) as error:
        raise RequestError(
            f"{target} cannot be written: {error}",
            expected="room for the weights, and the right to write",
            repair="free space, or give another path",
        ) from error


def _write(target: Path, weights: dict[str, Tensor], metadata: dict[str, str]) -> Path:
    if target.exists() or not target.parent.is_dir():
        raise RequestError(
            f"{target} " + ("exists already" if target.exists() else "is in a folder that does not exist"),
            expected="a new file in a folder that exists",
            repair="give another path, or move what is there",
        )
    partial = target.with_name(f".{target.name}.partial")
    try:
        save_file(weights, partial, metadata=metadata)
        sync(partial)
        rename_durably(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return target

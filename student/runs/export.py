"""A trained student as a file of weights, or as the file or folder that its system can write besides."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import save_file

from cache_schema.errors import RequestError
from cache_schema.storage.atomic_io import new_file
from student.runs.checkpoint import read_checkpoint
from student.runs.trained import load_trained

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

WEIGHTS = ".safetensors"
"""Ending of a file of weights alone, which every system has and no dataset is needed for."""


class Exported(NamedTuple):
    """A file or folder that was written."""

    file: Path
    remark: str = ""
    """What the system says about it, such as how exact it is."""

    def __str__(self) -> str:
        return f"exported to {self.file}" + (f"; {self.remark}" if self.remark else "")


def export(
    run: Path,
    target: Path,
    *,
    dataset: str | Path | None = None,
    with_datasets: Sequence[str | Path] = (),
    system: str | None = None,
) -> Exported:
    """Write the newest checkpoint in the form that the target's ending names; without one, as a folder.

    ``.safetensors`` holds the weights under their released names. Its metadata ``teachonce`` is the
    checkpoint's description as JSON: configuration, epochs, and the dataset and teacher behind it. It needs
    neither dataset nor system. Systems write other forms, such as ``.onnx``, or a folder. A kill leaves the
    target whole or absent.

    Args:
        run: Folder of a training run.
        target: File or folder to write; it must not exist.
        dataset: A latent dataset by the student's teacher, or its URL.
        with_datasets: The others, where the student was trained on several.
        system: The run's system, by its dotted name, if it is not part of this package.

    Raises:
        CheckpointError: The run has no readable checkpoint, or what was written does not compute what the
            student does; no file is left.
        IdentityError: The dataset is by another teacher.
        RequestError: The ending stands for nothing, the dataset is missing or lacks something, the target is
            there already, or it cannot be written.
    """
    if target.suffix == WEIGHTS:
        checkpoint, weights = read_checkpoint(run)
        metadata = {"format": "pt", "teachonce": checkpoint.model_dump_json()}
        with new_file(target, SafetensorError) as file:
            save_file(weights, file, metadata=metadata)
            _sort_metadata(file)
        return Exported(target)
    if dataset is None:
        raise RequestError(
            "--dataset is missing",
            expected=f"the student's dataset for {_form(target.suffix)}; {WEIGHTS} needs none",
            repair="add --dataset, or choose another ending",
        )
    trained = load_trained(run, dataset, with_datasets=with_datasets, system=system)
    write = trained.system.exports.get(target.suffix)
    if write is None:
        raise RequestError(
            f"the system {trained.checkpoint.config.system!r} writes no {_form(target.suffix)}",
            expected=f"{' or '.join(map(_form, (WEIGHTS, *trained.system.exports)))}",
            repair="give the target one of these endings",
        )
    with new_file(target, SafetensorError) as file:
        remark = write(trained.model, trained.dataset, file, trained.checkpoint.model_dump_json())
    return Exported(target, remark)


def _form(ending: str) -> str:
    """Return in words what a target with an ending is."""
    return f"file {ending}" if ending else "folder (no ending)"


def _sort_metadata(file: Path) -> None:
    """Sort the metadata of a safetensors file, which the library writes in another order in every process.

    The header keeps its length: 8 bytes before it hold that, and the weights begin behind it.
    """
    with file.open("r+b") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        content = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length)
        assert len(content) == length
        opened.seek(8)
        opened.write(content)

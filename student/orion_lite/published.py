"""Students that Orion-Lite's authors published, or that were exported, as runs of this package.

Source: spec Orion-Lite 2.4 and 5.1.
"""

from __future__ import annotations

from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, NamedTuple
from zipfile import BadZipFile

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file

from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import CheckpointError, RequestError
from cache_schema.vocabulary.orion import PLANNER_PARTS
from student.orion_lite.config import OrionLiteConfig
from student.orion_lite.policies import teacher_planner
from student.orion_lite.presets import ORION_LITE
from student.orion_lite.system import OrionLiteSystem
from student.runs import checkpoint
from student.runs.checkpoint import Checkpoint
from student.runs.folder import check_folder, exclusively
from student.runs.provenance import TrainedOn, record_start
from student.runs.weights import load_strictly, refuse_not_finite

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

UNREADABLE = (SafetensorError, UnpicklingError, BadZipFile, OSError, EOFError, RuntimeError, ValueError)
"""What libraries raise for a damaged file."""
PREFIX = "student_model."
"""Before the student's tensors in a fused checkpoint."""


class ImportedStudent(NamedTuple):
    """A run that was made of a published student."""

    run: Path
    sizes: OrionLiteConfig

    def __str__(self) -> str:
        return f"{self.run}: a student of {self.sizes.layers} layers, {self.sizes.hidden} wide"


def import_student(file: Path, dataset_path: str | Path, run: Path, *, heads: int) -> ImportedStudent:
    """Make a run of a published student, which can be evaluated, exported and trained on.

    The run's configuration is the released one at the student's sizes. A student without a planner gets the
    teacher's. That the dataset is by the student's teacher is the caller's responsibility: published files
    do not record it.

    Args:
        file: What ``read_published`` reads.
        dataset_path: A latent dataset by the student's teacher.
        run: Folder of the run; it must hold no checkpoint.
        heads: Attention heads of the student's layers, which no file records.

    Raises:
        CheckpointError: The file is damaged or is no student, does not fit the dataset's planner, or holds
            weights that are not finite.
        RequestError: The run's folder holds a checkpoint, or the dataset lacks the teacher's planner.
    """
    if checkpoint.latest(run) is not None:
        raise RequestError(
            f"{run} holds a run already",
            expected="a folder that is still to be made",
            repair="give another run folder",
        )
    dataset = LatentDataset.open(dataset_path)
    check_folder(run, dataset)
    tensors = read_published(file)
    refuse_not_finite(tensors, file)
    sizes = _sizes(tensors, file, heads=heads)
    config = ORION_LITE.model_copy(update={"student": sizes.model_dump(mode="json")})
    system = OrionLiteSystem(config.student, config.losses)
    student = system.build(dataset)
    if not any(name.startswith(PLANNER_PARTS) for name in tensors):
        tensors |= teacher_planner(dataset)
    load_strictly(student, tensors)
    imported = Checkpoint(epoch=0, step=0, config=config.completed(system), trained_on=TrainedOn.of(dataset))
    recipe = f"imported from {file.name}"
    with exclusively(run):
        checkpoint.save(run, imported, student, torch.optim.AdamW(student.parameters()))
        record_start(run, imported.trained_on, imported.config, recipe=recipe, device=torch.device("cpu"))
    return ImportedStudent(run, sizes)


def read_run(run: Path) -> tuple[Checkpoint, dict[str, Tensor]]:
    """Read a checkpoint as ``read_checkpoint``; raises RequestError for a run of another system."""
    reached, weights = checkpoint.read_checkpoint(run)
    if reached.config.system != ORION_LITE.system:
        raise RequestError(
            f"{run} is a run of the system {reached.config.system!r}",
            expected=f"a run of {ORION_LITE.system}, whose students a fused checkpoint holds",
            repair="export it as .safetensors",
        )
    return reached, weights


def read_published(file: Path) -> dict[str, Tensor]:
    """Read a student's tensors, under their released names and in float32.

    The file is a fused checkpoint, a training checkpoint, a state dict by ``torch.save``, or safetensors as
    ``export`` writes them; with the planner (161 tensors at released sizes) or without (117). Nothing in it
    is executed: objects other than tensors, numbers and text are ignored.

    Raises:
        CheckpointError: The file is missing, damaged, or holds no student.
    """
    if not file.is_file():
        raise CheckpointError(
            f"there is no file {file}",
            expected="a checkpoint by Orion-Lite, or an exported student",
            repair="download it, or correct the path",
        )
    try:
        content = load_file(file) if file.suffix == ".safetensors" else _load_torch(file)
    except UNREADABLE as error:
        # The message of an UnpicklingError advises to run what is in the file.
        is_code = isinstance(error, UnpicklingError)
        reason = "it holds code, or objects made by code" if is_code else str(error).partition("\n")[0]
        raise CheckpointError(
            f"{file} cannot be read as a student: {type(error).__name__}: {reason}",
            expected="safetensors, or a whole file by torch.save with a student's tensors",
            repair="download it again and compare its size",
        ) from error
    tensors = {name.removeprefix("module."): value for name, value in content.items()}
    if any(name.startswith(PREFIX) for name in tensors):
        tensors = {
            name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)
        }
    if "planning_query" not in tensors:
        raise CheckpointError(
            f"{file} holds no student: none of its {len(tensors)} tensors is a planning_query",
            expected="a fused or a training checkpoint by Orion-Lite, or an exported student",
            repair="give the student's file; a teacher's is read by `teachonce extract`",
        )
    return {name: value.float() for name, value in tensors.items()}


def _sizes(tensors: Mapping[str, Tensor], file: Path, *, heads: int) -> OrionLiteConfig:
    """Read the sizes of a student off its tensors."""
    query, inner = tensors["planning_query"], tensors.get("transformer_decoder.layers.0.linear1.weight")
    if inner is None or inner.dim() != 2 or query.dim() != 3:
        raise CheckpointError(
            f"the sizes of the student in {file} cannot be read off its tensors",
            expected="planning_query (1, 1, width) and linear1.weight (inner, width) of its first layer",
            repair="download it again, or give the file of a student of this architecture",
        )
    layers = {name.split(".")[2] for name in tensors if name.startswith("transformer_decoder.layers.")}
    try:
        return OrionLiteConfig(
            hidden=query.shape[-1], layers=len(layers), heads=heads, feedforward=len(inner)
        )
    except ValidationError as error:
        raise RequestError(
            f"{heads} attention heads do not fit the student in {file}: {error.errors()[0]['msg']}",
            expected="a number of heads that divides the width of its decoder",
            repair="give the number of heads that it was trained with",
        ) from error


class _Ignored:
    """Takes the place of an object that is no tensor, number or text, and does nothing."""

    def __new__(cls, *_: Any) -> _Ignored:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None: ...


def _load_torch(file: Path) -> dict[str, Tensor]:
    """Return the tensors, by name, of a file by ``torch.save``."""
    # Training arguments and other records come with classes of their own, which are not needed.
    foreign = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    ignored: list[Any] = [(_Ignored, name) for name in foreign]
    with torch.serialization.safe_globals(ignored):
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    for key in ("state_dict", "model_state_dict"):
        content = content.get(key, content) if isinstance(content, dict) else content
    if not isinstance(content, dict):
        raise ValueError("no dict of tensors")
    return {
        name: value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }

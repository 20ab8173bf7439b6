"""The fused checkpoint: the teacher's vision stack, and a student for its language model and planner.

The layout is Orion-Lite's (spec Orion-Lite 5.1), so that its closed-loop evaluation loads the file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from pydantic import TypeAdapter, ValidationError

from cache_schema.errors import CheckpointError, IdentityError, RequestError
from cache_schema.progress import SILENT
from cache_schema.storage.atomic_io import new_file
from pipeline.teachers.orion.checkpoints.reader import as_json, digest, read_weights
from pipeline.teachers.orion.checkpoints.tensors import teacher_shapes
from pipeline.teachers.orion.network.config import OrionConfig

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from cache_schema.format.manifest import TeacherIdentity
    from cache_schema.progress import Progress

REPLACED = ("lm_head.", "present_distribution.", "future_distribution.", "predict_model.", "ego_fut_decoder.")
"""Groups of the teacher's tensors that the student replaces."""
STUDENT = "student_model."
"""Before the name of every tensor of the student."""


def fuse(
    checkpoint: Path,
    student: Mapping[str, Tensor],
    target: Path,
    *,
    teacher: TeacherIdentity,
    described: str,
    progress: Progress = SILENT,
) -> int:
    """Write the fused checkpoint: a dict of ``state_dict`` and ``meta``, as ``torch.save`` writes it.

    The whole checkpoint is read once, tensor by tensor, to prove that it is the teacher that the student
    learned from. Tensors that are replaced are never held, nor copied.

    Args:
        checkpoint: ``Orion.pth``.
        student: All weights under their released names, with the planner's.
        target: File to write; it must not exist.
        teacher: The student's teacher.
        described: The student's description as JSON; becomes ``meta["teachonce"]``. The evaluation that loads
            the file does not read it: a student of other than the released depth and width must be configured
            there.
        progress: Counts tensors of the checkpoint.

    Returns:
        Tensors in the file.

    Raises:
        CheckpointError: The checkpoint is missing, damaged, or not of the teacher's sizes.
        IdentityError: The checkpoint is another teacher's.
        RequestError: The checkpoint is a converted folder; or the target is there already, or cannot be
            written.
    """
    if checkpoint.is_dir():
        raise RequestError(
            f"{checkpoint} is a folder",
            expected="Orion.pth itself, whose names and copies of tensors a fused checkpoint keeps",
            repair="give the released file that the folder was converted from",
        )
    with new_file(target, RuntimeError) as file:
        _check_teacher(checkpoint, teacher, progress)
        # It has just been read whole, so it opens.
        content = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        stored = {
            name.removeprefix("module."): value for name, value in content.get("state_dict", content).items()
        }
        kept = {name: value for name, value in stored.items() if not name.startswith(REPLACED)}
        state = kept | {STUDENT + name: value for name, value in student.items()}
        meta = {
            **_plain(content.get("meta")),
            "teacher_checkpoint": checkpoint.name,
            "student_prefix": STUDENT,
            "teachonce": described,
        }
        # Through a Python file, whose errors name the reason.
        with file.open("wb") as opened:
            torch.save({"state_dict": state, "meta": meta}, opened)
    return len(state)


def _check_teacher(checkpoint: Path, teacher: TeacherIdentity, progress: Progress) -> None:
    try:
        config = TypeAdapter(OrionConfig).validate_python(teacher.architecture)
    except ValidationError:
        config = None
    if config is None or as_json(config) != teacher.architecture:
        raise CheckpointError(
            f"the teacher {teacher.name} is not described by the sizes of an ORION",
            expected="a student of an ORION teacher",
            repair="export to .safetensors or .onnx, which need no teacher",
        )
    progress.expect(len(teacher_shapes(config)))
    found = digest(read_weights(checkpoint, config), progress)
    if found != teacher.weights:
        raise IdentityError(
            f"{checkpoint} holds the weights {found}, and the student learned from {teacher.weights}",
            expected="the checkpoint that the student's dataset was extracted with",
            repair="give that checkpoint, or a run that was trained on this teacher's dataset",
        )


def _plain(meta: object) -> dict[str, Any]:
    """Return what a loader may need of the teacher's meta, such as names of classes: text, numbers, lists."""
    if not isinstance(meta, dict):
        return {}
    return {name: value for name, value in meta.items() if isinstance(name, str) and _is_plain(value)}


def _is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(part) for pair in value.items() for part in pair)
    if isinstance(value, (list, tuple)):
        return all(_is_plain(part) for part in value)
    return value is None or isinstance(value, (str, bool, int, float))

"""What a run leaves behind to go on from, and to evaluate: one folder, committed whole at an epoch's end.

``RUN/checkpoints/epoch-0003/`` holds ``weights.safetensors``, ``optimizer.safetensors`` and
``checkpoint.json``. It is written under another name, flushed and renamed, and only then is the one before it
removed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cache_schema.durable import rename_durably, sync_tree
from cache_schema.errors import CheckpointError, IdentityError
from cache_schema.manifest import TeacherIdentity
from student.config import MAY_CHANGE, TrainConfig

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor

    from cache_schema.store import LatentDataset
    from student.models.orion_lite import OrionLite

PARTIAL = ".partial"
"""Folder of the checkpoint that is being written."""


class TrainedOn(BaseModel):
    """The dataset behind a run: its teacher, and what every clip holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    teacher: TeacherIdentity
    clips: int
    digest: str
    """sha256 over the digests of all clips."""

    @classmethod
    def of(cls, dataset: LatentDataset) -> Self:
        """Fingerprint a dataset as it is now."""
        digests = {name: dataset.entry(name).digest for name in dataset.clips}
        digest = hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
        return cls(teacher=dataset.manifest.teacher, clips=len(digests), digest=digest)


class Checkpoint(BaseModel):
    """How far a run has come, and with what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int
    """Epochs done."""
    step: int
    """Optimiser steps done."""
    config: TrainConfig
    trained_on: TrainedOn

    def check_resumes(self, config: TrainConfig, trained_on: TrainedOn) -> None:
        """Check that a run may go on from here.

        Raises:
            CheckpointError: The configuration differs in more than ``MAY_CHANGE``.
            IdentityError: The dataset differs.
        """
        mine, now = self.config.model_dump(), config.model_dump()
        changed = [
            f"{name}: {mine[name]!r} there, {now[name]!r} now"
            for name in mine
            if mine[name] != now[name] and name not in MAY_CHANGE
        ]
        if changed:
            raise CheckpointError(
                "the run in this folder has another configuration: " + "; ".join(changed),
                expected=f"the run's own configuration; only {' and '.join(sorted(MAY_CHANGE))} may change",
                repair="give another run folder, or the preset that the run began with",
            )
        if self.trained_on != trained_on:
            raise IdentityError(
                "the run in this folder was trained on another dataset: "
                f"{_short(self.trained_on)} there, {_short(trained_on)} now",
                expected="the same teacher and the same clips, byte for byte",
                repair="give another run folder, or the dataset that the run began with",
            )

    def check_reads(self, dataset: LatentDataset) -> None:
        """Check that the student understands what this dataset's teacher says.

        Raises:
            IdentityError: It was trained by another teacher.
        """
        if self.trained_on.teacher != dataset.manifest.teacher:
            there, here = self.trained_on.teacher, dataset.manifest.teacher
            raise IdentityError(
                f"the student learned from {there.name} ({there.weights}), "
                f"and {dataset.path} is by {here.name} ({here.weights})",
                expected="a dataset by the student's own teacher, whose tokens it reads",
                repair="choose a dataset or a run that belong together",
            )


def save(run: Path, checkpoint: Checkpoint, model: OrionLite, optimizer: torch.optim.Optimizer) -> None:
    """Commit a checkpoint and remove the one before it.

    Raises:
        CheckpointError: The disk refuses; the checkpoint before it is untouched.
    """
    folder = run / "checkpoints"
    partial = folder / PARTIAL
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(
            {name: value.contiguous() for name, value in model.state_dict().items()},
            partial / "weights.safetensors",
        )
        save_file(_moments(model, optimizer), partial / "optimizer.safetensors")
        (partial / "checkpoint.json").write_text(checkpoint.model_dump_json(indent=1))
        sync_tree(partial)
        before = _committed(run)
        rename_durably(partial, folder / f"epoch-{checkpoint.epoch:04d}")
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint of epoch {checkpoint.epoch} cannot be written to {folder}: {error}",
            expected="room for the weights three times over, and the right to write",
            repair="free space, then run the same command again: it goes on from the checkpoint before",
        ) from error
    for old in before:
        shutil.rmtree(old)


def latest(run: Path) -> Path | None:
    """Return the folder of the newest checkpoint of a run, if it has one."""
    return max(_committed(run), default=None)


def read_checkpoint(run: Path) -> tuple[Checkpoint, dict[str, Tensor]]:
    """Read the newest checkpoint of a run and its weights.

    Raises:
        CheckpointError: There is none, or a file of it is missing or damaged.
    """
    folder = latest(run)
    if folder is None:
        raise CheckpointError(
            f"{run} holds no checkpoint",
            expected="the folder of a run that has finished an epoch",
            repair="train first, or correct the path",
        )
    file = folder / "checkpoint.json"
    try:
        checkpoint = Checkpoint.model_validate_json(file.read_bytes())
    except (ValidationError, OSError) as error:
        raise _damaged(file, error) from error
    return checkpoint, _tensors(folder / "weights.safetensors")


def restore_optimizer(run: Path, model: OrionLite, optimizer: torch.optim.Optimizer) -> None:
    """Put the newest checkpoint's moments into the optimiser.

    Raises:
        CheckpointError: Their file is missing or damaged.
    """
    folder = latest(run)
    assert folder is not None
    moments = _tensors(folder / "optimizer.safetensors")
    state: dict[int, dict[str, Tensor]] = {}
    for number, (name, _) in enumerate(model.named_parameters()):
        own = {
            key: moments[f"{key}.{name}"]
            for key in ("step", "exp_avg", "exp_avg_sq")
            if f"{key}.{name}" in moments
        }
        if own:
            state[number] = own
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _moments(model: OrionLite, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{key}.{name}": value
        for name, weight in model.named_parameters()
        for key, value in optimizer.state.get(weight, {}).items()
    }


def _tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{file} cannot be read: {error}",
        expected="a checkpoint as training writes it",
        repair=f"restore it from a copy, or remove {file.parent} to train this run from its beginning",
    )


def _committed(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("epoch-*"))


def _short(trained_on: TrainedOn) -> str:
    teacher = trained_on.teacher
    return f"{trained_on.clips} clips ({trained_on.digest[:12]}) by {teacher.name} ({teacher.weights})"

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
from student.config import TrainConfig

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor

    from cache_schema.store import LatentDataset
    from student.models.orion_lite import OrionLite

PARTIAL = ".partial"
"""Folder of the checkpoint that is being written."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TrainedOn(_Record):
    """The dataset behind a run: its teacher, and what every clip holds."""

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


class Checkpoint(_Record):
    """How far a run has come, and with what."""

    epoch: int
    """Epochs done."""
    step: int
    """Optimiser steps done."""
    config: TrainConfig
    trained_on: TrainedOn

    def check_resumes(self, config: TrainConfig, trained_on: TrainedOn) -> None:
        """Check that a run may go on from here; only ``epochs`` may have changed.

        Raises:
            CheckpointError: The configuration differs.
            IdentityError: The dataset differs.
        """
        mine, now = self.config.model_dump(), config.model_dump()
        changed = [
            f"{name}: {mine[name]!r} there, {now[name]!r} now"
            for name in mine
            if mine[name] != now[name] and name != "epochs"
        ]
        if changed:
            raise CheckpointError(
                "the run in this folder has another configuration: " + "; ".join(changed),
                expected="the same configuration, but for the number of epochs",
                repair="use another run folder, or the configuration of the run",
            )
        if self.trained_on != trained_on:
            raise IdentityError(
                "the run in this folder was trained on another dataset: "
                f"{_short(self.trained_on)} there, {_short(trained_on)} now",
                expected="the same teacher and the same clips, byte for byte",
                repair="use another run folder, or the dataset of the run",
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
        CheckpointError: There is none, or it does not parse.
    """
    folder = latest(run)
    if folder is None:
        raise CheckpointError(
            f"{run} holds no checkpoint",
            expected="the folder of a run that has finished an epoch",
            repair="train first, or correct the path",
        )
    try:
        checkpoint = Checkpoint.model_validate_json((folder / "checkpoint.json").read_bytes())
        return checkpoint, load_file(folder / "weights.safetensors")
    except (ValidationError, SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{folder} cannot be read: {error}",
            expected="a checkpoint as training writes it",
            repair="remove this folder, and train again",
        ) from error


def restore_optimizer(run: Path, model: OrionLite, optimizer: torch.optim.Optimizer) -> None:
    """Put the newest checkpoint's moments into the optimiser."""
    folder = latest(run)
    assert folder is not None
    moments = load_file(folder / "optimizer.safetensors")
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


def _committed(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("epoch-*"))


def _short(trained_on: TrainedOn) -> str:
    teacher = trained_on.teacher
    return f"{trained_on.clips} clips ({trained_on.digest[:12]}) by {teacher.name} ({teacher.weights})"

"""Checkpoints: what a run resumes from, and what is evaluated. Each is a folder, committed whole.

``RUN/checkpoints/step-00003669/`` holds ``weights.safetensors``, ``optimizer.safetensors``,
``average.safetensors`` where weights are averaged, ``gradients.safetensors`` where the gradient rule has a
state, ``checkpoint.json``, and ``SHA256SUMS`` over them, as ``sha256sum -c`` reads it. It is written under
another name, flushed and renamed. Two are kept: if the newer is damaged, a run resumes from the older, and
ends with the same bits. Whatever else lies beside them, such as a copy under a name of one's own, is neither
read nor removed.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cache_schema.errors import CheckpointError, IdentityError
from cache_schema.storage.atomic_io import follow_umask, rename_durably, sha256_of, sync_tree
from cache_schema.storage.locks import check_held
from student.runs.config import RunConfig
from student.runs.provenance import TrainedOn
from student.runs.weights import refuse_not_finite

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch
    from torch import Tensor, nn

    from student.loading.dataset import Dataset
    from student.system import System

KEPT = 2
"""Checkpoints of a run, so that one is good whatever happens to the other."""
NAME = re.compile(r"step-\d{8,}")
"""Name of a checkpoint's folder: its step in eight digits or more."""
PARTIAL = ".partial"
"""Folder of the checkpoint that is being written."""
SUMS = "SHA256SUMS"
REQUIRED = {"checkpoint.json", "weights.safetensors", "optimizer.safetensors"}
"""Files that every checkpoint has."""
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps of a weight."""


class Checkpoint(BaseModel):
    """How far a run has come, and with what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int
    """Epochs done."""
    step: int
    """Optimiser steps done. Samples, dropout and noise of the next follow from it and the seed."""
    config: RunConfig
    trained_on: TrainedOn
    samples: int = Field(0, validation_alias=AliasChoices("samples", "frames"))
    """Samples seen of the epoch that is under way."""
    sums: dict[str, float] = {}
    """Sums of the terms of the loss over them."""
    scaler: dict[str, int | float] | None = None
    """State of the gradient scaler in fp16."""

    def check_resumes(self, config: RunConfig, system: System, trained_on: TrainedOn) -> None:
        """Check that a run may go on from here with a complete configuration and a dataset.

        Raises:
            CheckpointError: The configuration differs in more than it may.
            IdentityError: The dataset differs.
        """
        free = self.config.training.may_change()
        changed = [
            f"{name}: {mine!r} there, {now!r} now"
            for name, (mine, now) in self.config.completed(system).differences(config).items()
            if name.removeprefix("training.") not in free
        ]
        if changed:
            raise CheckpointError(
                "the run in this folder has another configuration: " + "; ".join(changed),
                expected=f"the run's own configuration; only {', '.join(sorted(free))} may change",
                repair="give another run folder, or the preset that the run began with",
            )
        if self.trained_on != trained_on:
            raise IdentityError(
                f"the run in this folder was trained on another dataset: {self.trained_on} there, "
                f"{trained_on} now",
                expected="the same teacher and the same clips, byte for byte",
                repair="give another run folder, or the dataset that the run began with",
            )

    def check_reads(self, dataset: Dataset) -> None:
        """Check that a dataset holds the features of the teachers that the student was trained on.

        Raises:
            IdentityError: It is by another teacher, or there are more or fewer datasets.
        """
        there, here = self.trained_on.teachers, tuple(one.manifest.teacher for one in dataset.datasets)
        if there != here:
            mine, others = (
                " and ".join(f"{teacher.name} ({teacher.weights})" for teacher in teachers)
                for teachers in (there, here)
            )
            raise IdentityError(
                f"the student learned from {mine}, and {dataset} is by {others}",
                expected="a dataset by the student's own teacher, whose features it reads",
                repair="choose a dataset or a run that belong together",
            )


class Restored(NamedTuple):
    """A checkpoint that a run resumes from."""

    checkpoint: Checkpoint
    weights: dict[str, Tensor]
    moments: dict[str, Tensor]
    """Of the optimiser: ``exp_avg.NAME`` and so on for each weight."""
    average: dict[str, Tensor] | None
    """The moving average of the weights, where there is one."""
    gradients: dict[str, Tensor]
    """State of the gradient rule."""


def save(
    run: Path,
    checkpoint: Checkpoint,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: Mapping[str, Tensor] | None = None,
    gradients: Mapping[str, Tensor] | None = None,
) -> None:
    """Commit a checkpoint, and remove those that are no longer needed.

    Args:
        run: Folder of the run.
        checkpoint: How far it is.
        model: Its network.
        optimizer: AdamW.
        average: The moving average of the weights.
        gradients: State of the gradient rule.

    Raises:
        CheckpointError: The disk refuses; the checkpoints before it are untouched.
        DatasetError: The run's folder was deleted, moved or replaced while this process trained in it.
    """
    folder = run / "checkpoints"
    partial, target = folder / PARTIAL, folder / f"step-{checkpoint.step:08d}"
    files: dict[str, Mapping[str, Tensor]] = {
        "weights.safetensors": model.state_dict(),
        "optimizer.safetensors": _moments(model, optimizer),
    }
    if average is not None:
        # What is no weight, such as a norm's statistics, belongs to the averaged weights as it is.
        files["average.safetensors"] = {**model.state_dict(), **average}
    if gradients:
        files["gradients.safetensors"] = gradients
    check_held(run)
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, tensors in files.items():
            save_file({key: value.contiguous() for key, value in tensors.items()}, partial / name)
        (partial / "checkpoint.json").write_text(checkpoint.model_dump_json(indent=1))
        sums = _digests(partial, ("checkpoint.json", *files))
        (partial / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))
        follow_umask(partial)
        sync_tree(partial)
        check_held(run)
        # One of the same step, or of a later one, is damaged: the run was resumed from before it.
        for step, stale in _committed(run).items():
            if step >= checkpoint.step:
                shutil.rmtree(stale)
        rename_durably(partial, target)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint of step {checkpoint.step} cannot be written to {folder}: {error}",
            expected="room for one checkpoint more than are kept, and the right to write",
            repair="free space, then run the same command again: it resumes from the checkpoint before",
        ) from error
    for old in [*_committed(run).values()][:-KEPT]:
        if not old.is_symlink():  # somebody moved it elsewhere
            shutil.rmtree(old)


def latest(run: Path) -> Path | None:
    """Return the folder of a run's newest checkpoint, good or not, if it has one."""
    return next(reversed(_committed(run).values()), None)


def read_checkpoint(run: Path) -> tuple[Checkpoint, dict[str, Tensor]]:
    """Read a run's newest good checkpoint and its weights: their average, where there is one.

    Raises:
        CheckpointError: There is none, all are damaged, or the weights are not finite.
    """
    folder, checkpoint = _newest_good(run)
    average = folder / "average.safetensors"
    file = average if average.exists() else folder / "weights.safetensors"
    weights = load_file(file)
    refuse_not_finite(weights, file)
    return checkpoint, weights


def restore(run: Path) -> Restored | None:
    """Read what a run resumes from: its newest good checkpoint; None where it has never had one.

    Raises:
        CheckpointError: All checkpoints are damaged.
    """
    if latest(run) is None:
        return None
    folder, checkpoint = _newest_good(run)
    average, gradients = folder / "average.safetensors", folder / "gradients.safetensors"
    return Restored(
        checkpoint,
        weights=load_file(folder / "weights.safetensors"),
        moments=load_file(folder / "optimizer.safetensors"),
        average=load_file(average) if average.exists() else None,
        gradients=load_file(gradients) if gradients.exists() else {},
    )


def restore_optimizer(
    moments: Mapping[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Put saved moments into AdamW."""
    number_of = {
        id(weight): number
        for number, weight in enumerate(w for group in optimizer.param_groups for w in group["params"])
    }
    state = {}
    for name, weight in model.named_parameters():
        own = {key: moments[f"{key}.{name}"] for key in MOMENTS if f"{key}.{name}" in moments}
        if own:
            state[number_of[id(weight)]] = own
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{key}.{name}": value
        for name, weight in model.named_parameters()
        for key, value in optimizer.state.get(weight, {}).items()
    }


def _newest_good(run: Path) -> tuple[Path, Checkpoint]:
    """Find the newest checkpoint that is as it was written; warn if there are newer ones."""
    damage: list[str] = []
    for folder in reversed(_committed(run).values()):
        what = _damage(folder)
        if what is None:
            if damage:
                warnings.warn(f"{'; '.join(damage)}: going back to {folder.name}", stacklevel=3)
            return folder, Checkpoint.model_validate_json((folder / "checkpoint.json").read_bytes())
        damage.append(what)
    if damage:
        raise CheckpointError(
            f"no checkpoint of {run} can be read: {'; '.join(damage)}",
            expected=f"the files of each checkpoint as its {SUMS} lists them",
            repair="restore one from a copy, or remove the folder checkpoints to train from the start",
        )
    raise CheckpointError(
        f"{run} holds no checkpoint",
        expected="the folder of a run that has finished an epoch",
        repair="train first, or correct the path",
    )


def _damage(folder: Path) -> str | None:
    """Return which file is not as it was written; None if all are."""
    try:
        lines = [line.partition("  ") for line in (folder / SUMS).read_text().splitlines()]
        listed = {name: digest for digest, _, name in lines}
        found = _digests(folder, tuple(listed))
    except (OSError, ValueError) as error:
        return f"{folder} is damaged: {error}"
    wrong = [name for name in listed if listed[name] != found[name]]
    if wrong or REQUIRED - listed.keys():
        return f"{folder / (wrong or [SUMS])[0]} is damaged"
    try:
        Checkpoint.model_validate_json((folder / "checkpoint.json").read_bytes())
    except ValidationError:
        return f"{folder / 'checkpoint.json'} was written by another version of this program"
    return None


def _digests(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Return the sha256 of files, computed at the same time: they are gigabytes."""
    with ThreadPoolExecutor() as pool:
        return dict(zip(names, pool.map(lambda name: sha256_of(folder / name), names), strict=True))


def _committed(run: Path) -> dict[int, Path]:
    """Return the checkpoints of a run by their steps, the oldest first."""
    folders = [folder for folder in (run / "checkpoints").glob("step-*") if NAME.fullmatch(folder.name)]
    of_step = {int(folder.name.removeprefix("step-")): folder for folder in folders}
    return {step: of_step[step] for step in sorted(of_step) if _is_of_step(of_step[step], step)}


def _is_of_step(folder: Path, step: int) -> bool:
    """Return whether a folder is a checkpoint of this step, good or not, and no copy of another one's."""
    if not folder.is_dir():
        return False
    try:
        recorded = json.loads((folder / "checkpoint.json").read_bytes())["step"]
    except (OSError, ValueError, TypeError, KeyError):
        return True  # it is damaged
    return bool(recorded == step)

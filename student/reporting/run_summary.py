"""What the folder of a run tells, checked: who it is, its losses, and its evaluation.

Dimension letters: N frame, T step (of 0.5 s).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load

from cache_schema.errors import CheckpointError, RequestError
from student.open_loop.evaluation import COLLISION_COLUMNS, Evaluation
from student.open_loop.metrics import COLUMNS
from student.runs import provenance
from student.runs.log import read_log
from student.runs.provenance import Provenance

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

GROUP_L2, GROUP_RATE = "up_to_mean", "box_corrected_mean"
"""What runs and groups are compared by: L2 in metres, and the share of steps that collide."""
BINS = 50
"""Of the histogram of cosines, from the lowest of all runs to 1."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Epoch(_Record):
    """A line of the log: means of every term of the loss over frames."""

    epoch: int
    step: int
    train: dict[str, float]
    val: dict[str, float] | None


class Histogram(_Record):
    """How often values fall between edges."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    """One fewer than edges."""


class Findings(_Record):
    """Everything a report says of a run in numbers."""

    name: str
    made_by: Provenance
    epochs: tuple[Epoch, ...]
    evaluation: Evaluation | None
    """None where it has not been evaluated."""
    cosines: Histogram | None
    """Of the student's planning token with its teacher's, over all evaluated frames."""
    worst_l2_m: tuple[float, ...]
    """Mean L2 up to 1, 2 and 3 s of the student at each of ``evaluation.worst``."""


class Run(NamedTuple):
    """A run's numbers, and the tensors its pictures are drawn from."""

    findings: Findings
    tensors: dict[str, np.ndarray]
    """Of ``evaluation.safetensors``; none where there is no evaluation."""


def read_runs(folders: Sequence[Path], names: Sequence[str]) -> list[Run]:
    """Read what there is to tell of some runs, called by these names.

    Raises:
        RequestError: It has neither a finished epoch nor an evaluation.
        CheckpointError: What training or evaluation wrote cannot be read.
    """
    runs = [_read(folder, name) for folder, name in zip(folders, names, strict=True)]
    seen = [run.tensors["token.cosine"].clip(-1, 1) for run in runs if run.tensors]
    edges = np.linspace(min((values.min() for values in seen), default=0), 1, BINS + 1)
    return [_with_cosines(run, edges) if run.tensors else run for run in runs]


def _with_cosines(run: Run, edges: np.ndarray) -> Run:
    counts, _ = np.histogram(run.tensors["token.cosine"].clip(-1, 1), edges)
    histogram = Histogram(edges=tuple(edges.tolist()), counts=tuple(counts.tolist()))
    return run._replace(findings=run.findings.model_copy(update={"cosines": histogram}))


def _read(folder: Path, name: str) -> Run:
    epochs = _epochs(folder)
    if not epochs and not (folder / "evaluation.json").exists():
        raise RequestError(
            f"{folder} has no finished epoch, and is not evaluated",
            expected="the folder of a training run",
            repair="train first, or correct the path",
        )
    made_by = _provenance(folder)
    evaluation, tensors = _evaluation(folder)
    l2_m = tensors["l2.student"][tensors["worst"], COLUMNS.index("up_to_mean")] if tensors else np.empty(0)
    findings = Findings(
        name=name,
        made_by=made_by,
        epochs=epochs,
        evaluation=evaluation,
        cosines=None,
        worst_l2_m=tuple(l2_m.tolist()),
    )
    return Run(findings, tensors)


def _epochs(folder: Path) -> tuple[Epoch, ...]:
    try:
        return tuple(Epoch.model_validate(line) for line in read_log(folder) if line["kind"] == "epoch")
    except ValidationError as error:
        raise CheckpointError(
            f"the log of {folder} holds an epoch that does not parse: {error}",
            expected="log.jsonl as `teachonce train` writes it",
            repair="remove that line, or train the run again",
        ) from error


def _provenance(folder: Path) -> Provenance:
    file = folder / provenance.NAME
    try:
        return Provenance.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise CheckpointError(
            f"{file} cannot be read: {error}",
            expected="what made the run, as `teachonce train` writes it",
            repair="restore the file from a copy; going on with the training writes it anew as well",
        ) from error


def _evaluation(folder: Path) -> tuple[Evaluation | None, dict[str, np.ndarray]]:
    if not (folder / "evaluation.json").exists():
        return None, {}
    try:
        evaluation = Evaluation.model_validate_json((folder / "evaluation.json").read_bytes())
        tensors = load((folder / "evaluation.safetensors").read_bytes())
        _check(evaluation, tensors)
    except (ValidationError, SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"the evaluation in {folder} cannot be read: {error!r}",
            expected="evaluation.json and evaluation.safetensors as `teachonce evaluate` writes them",
            repair="evaluate the run again",
        ) from error
    return evaluation, tensors


def _check(evaluation: Evaluation, tensors: dict[str, np.ndarray]) -> None:
    """Check that tables and pictures can be made of what was read.

    Raises:
        KeyError: Something is missing.
        ValueError: Something is of another shape than the rest.
    """
    collisions = bool(evaluation.collision)
    measures = {*COLUMNS, *(COLLISION_COLUMNS if collisions else ())}
    for driver in {"student", "teacher", *evaluation.l2_m}:
        for mask in ("complete", "orion"):
            hits = evaluation.collision[driver][mask] if collisions else {}
            both = {**evaluation.l2_m[driver][mask], **hits}.keys() & evaluation.interval[driver][mask].keys()
            if measures - both or mask not in evaluation.frames:
                raise ValueError(f"{driver} is not measured whole in the {mask} mask")
        for group in evaluation.groups:
            if {GROUP_L2, *([GROUP_RATE] if collisions else [])} - group.means[driver].keys():
                raise ValueError(f"{driver} is not measured whole in {group.name}")

    frames = len(tensors["truth"])
    for driver in ("truth", "student", "teacher"):
        if tensors[driver].shape[0] != frames or tensors[driver].shape[2:] != (2,):
            raise ValueError(f"{driver} is {tensors[driver].shape}")
    if tensors["token.cosine"].shape != (frames,) or tensors["l2.student"].shape != (frames, len(COLUMNS)):
        raise ValueError("the errors are not of as many frames as the plans")
    for rows, names in (("picture", evaluation.pictures), ("worst", evaluation.worst)):
        chosen = tensors[rows]
        if chosen.shape != (len(names),) or not np.all((chosen >= 0) & (chosen < frames)):
            raise ValueError(f"{rows} names other frames than there are")

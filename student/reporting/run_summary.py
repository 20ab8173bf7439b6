"""What the folder of a run holds, read and checked: its configuration, its losses, and its evaluation.

Dimension letters: N sample, T step (of 0.5 s).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, SerializeAsAny, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load

from cache_schema.errors import CheckpointError, RequestError
from student.open_loop.evaluation import COLLISION_COLUMNS, OpenLoopEvaluation
from student.open_loop.metrics import COLUMNS
from student.runs import provenance
from student.runs.evaluate import ARRAYS, NUMBERS
from student.runs.log import read_log
from student.runs.provenance import Provenance
from student.system import Evaluation

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

GROUP_L2, GROUP_RATE = "up_to_mean", "box_corrected_mean"
"""What runs and groups are compared by: L2 in metres, and the share of steps that collide."""
CODES, DRIVEN = "codes.", "driven."
"""Prefixes of arrays: codes of every frame, by whose they are; and a quantity that they are probed for."""
BINS = 50
"""Of the histogram of cosines, from the lowest of all runs to 1."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Epoch(_Record):
    """A line of the log: means of every term of the loss over samples."""

    epoch: int
    step: int
    train: dict[str, float]
    val: dict[str, float] | None


class Histogram(_Record):
    """How often values fall between edges."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    """One fewer than edges."""


class OtherEvaluation(Evaluation):
    """An evaluation of a kind that reports do not know: all its fields are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")


class RunSummary(_Record):
    """The numbers of a run that a report shows."""

    name: str
    made_by: Provenance
    epochs: tuple[Epoch, ...]
    evaluation: SerializeAsAny[Evaluation] | None
    """None where it has not been evaluated."""
    cosines: dict[str, Histogram] = {}
    """Imitated feature -> its cosine with the teacher's, over all evaluated samples."""
    worst_l2_m: tuple[float, ...] = ()
    """Mean L2 up to 1, 2 and 3 s of the student at each of the evaluation's worst frames."""

    @property
    def open_loop(self) -> OpenLoopEvaluation | None:
        """The evaluation, if it is one of driving policies in open loop."""
        return self.evaluation if isinstance(self.evaluation, OpenLoopEvaluation) else None


class Run(NamedTuple):
    """A run's numbers, and the arrays that its pictures are drawn from."""

    summary: RunSummary
    arrays: dict[str, np.ndarray]
    """Of ``evaluation.safetensors``; none where there is no open-loop evaluation."""


def read_runs(folders: Sequence[Path], names: Sequence[str]) -> list[Run]:
    """Read some runs, called by these names.

    Raises:
        RequestError: One has neither a finished epoch nor an evaluation.
        CheckpointError: What training or evaluation wrote cannot be read.
    """
    runs = [_read(folder, name) for folder, name in zip(folders, names, strict=True)]
    cosines = [_cosines(run) for run in runs]
    lowest: dict[str, float] = {}
    for feature, values in (item for found in cosines for item in found.items()):
        lowest[feature] = min(lowest.get(feature, 1.0), float(values.min()))
    return [_with_histograms(run, found, lowest) for run, found in zip(runs, cosines, strict=True)]


def _cosines(run: Run) -> dict[str, np.ndarray]:
    """Return imitated feature -> (N) cosines."""
    found = run.summary.open_loop
    names = () if found is None else found.similarity
    return {name: run.arrays[f"similarity.{name}.cosine"].clip(-1, 1) for name in names}


def _with_histograms(run: Run, cosines: dict[str, np.ndarray], lowest: dict[str, float]) -> Run:
    histograms = {}
    for name, values in cosines.items():
        counts, edges = np.histogram(values, np.linspace(lowest[name], 1, BINS + 1))
        histograms[name] = Histogram(edges=tuple(edges.tolist()), counts=tuple(counts.tolist()))
    return run._replace(summary=run.summary.model_copy(update={"cosines": histograms}))


def _read(folder: Path, name: str) -> Run:
    epochs = _epochs(folder)
    if not epochs and not (folder / NUMBERS).exists():
        raise RequestError(
            f"{folder} has no finished epoch, and is not evaluated",
            expected="the folder of a training run",
            repair="train first, or correct the path",
        )
    made_by = _provenance(folder)
    evaluation, arrays = _evaluation(folder)
    l2_m = arrays["l2.student"][arrays["worst"], COLUMNS.index(GROUP_L2)] if arrays else np.empty(0)
    summary = RunSummary(
        name=name, made_by=made_by, epochs=epochs, evaluation=evaluation, worst_l2_m=tuple(l2_m.tolist())
    )
    return Run(summary, arrays)


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
            repair="restore the file from a copy, or resume the training, which writes it anew",
        ) from error


def _evaluation(folder: Path) -> tuple[Evaluation | None, dict[str, np.ndarray]]:
    if not (folder / NUMBERS).exists():
        return None, {}
    try:
        document = json.loads((folder / NUMBERS).read_bytes())
        if document.get("kind", "open-loop") != "open-loop":
            return OtherEvaluation.model_validate(document), {}
        evaluation = OpenLoopEvaluation.model_validate(document)
        arrays = load((folder / ARRAYS).read_bytes())
        _check(evaluation, arrays)
    except (ValidationError, SafetensorError, OSError, KeyError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"the evaluation in {folder} cannot be read: {error!r}",
            expected=f"{NUMBERS} and {ARRAYS} as `teachonce evaluate` of this version writes them",
            repair="evaluate the run again",
        ) from error
    return evaluation, arrays


def _check(evaluation: OpenLoopEvaluation, arrays: dict[str, np.ndarray]) -> None:
    """Check that tables and pictures can be made of what was read.

    Raises:
        KeyError: Something is missing.
        ValueError: Something is of another shape than the rest.
    """
    collisions = bool(evaluation.collision)
    measures = {*COLUMNS, *(COLLISION_COLUMNS if collisions else ())}
    policies = {"student", *evaluation.l2_m, *evaluation.interval, *evaluation.collision}
    for policy in policies:
        for mask in ("complete", "orion"):
            hits = evaluation.collision[policy][mask] if collisions else {}
            both = {**evaluation.l2_m[policy][mask], **hits}.keys() & evaluation.interval[policy][mask].keys()
            if measures - both or mask not in evaluation.frames:
                raise ValueError(f"{policy} is not measured completely in the {mask} mask")
        for group in evaluation.groups:
            if {GROUP_L2, *([GROUP_RATE] if collisions else [])} - group.means[policy].keys():
                raise ValueError(f"{policy} is not measured completely in {group.name}")

    frames = len(arrays["ground_truth"])
    for name in ("ground_truth", *policies):
        if arrays[name].shape[0] != frames or arrays[name].shape[2:] != (2,):
            raise ValueError(f"{name} is {arrays[name].shape}")
    for name in evaluation.similarity:
        if arrays[f"similarity.{name}.cosine"].shape != (frames,):
            raise ValueError(f"the cosines of {name} are not of as many frames as the plans")
    if arrays["l2.student"].shape != (frames, len(COLUMNS)):
        raise ValueError("the errors are not of as many frames as the plans")
    for name, values in arrays.items():
        if name.startswith((CODES, DRIVEN)) and len(values) != frames:
            raise ValueError(f"{name} is not of as many frames as the plans")
    for rows, names in (("picture", evaluation.pictures), ("worst", evaluation.worst)):
        chosen = arrays[rows]
        if chosen.shape != (len(names),) or not np.all((chosen >= 0) & (chosen < frames)):
            raise ValueError(f"{rows} names other frames than there are")

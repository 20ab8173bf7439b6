"""Measuring a trained student, whatever its system."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safetensors.numpy import save

from cache_schema.progress import SILENT, Progress
from cache_schema.storage.atomic_io import write_durably
from student.device import allow_tf32, chosen
from student.runs.trained import load_trained

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from student.system import Evaluation

NUMBERS, ARRAYS = "evaluation.json", "evaluation.safetensors"
"""Files of an evaluation, in the folder of the run."""


def evaluate(
    run: Path,
    dataset: str | Path,
    split: str = "val",
    *,
    with_datasets: Sequence[str | Path] = (),
    system: str | None = None,
    device: str = "cpu",
    progress: Progress = SILENT,
) -> Evaluation:
    """Measure a run's newest checkpoint; write ``evaluation.json`` and ``evaluation.safetensors`` beside it.

    Equal runs and datasets give equal numbers.

    Args:
        run: Folder of a training run.
        dataset: A latent dataset by the student's teacher, or its URL.
        split: "train", "val" or "all".
        with_datasets: The others, where the student was trained on several.
        system: The run's system, by its dotted name, if it is not part of this package.
        device: Torch device.
        progress: Counts samples.

    Raises:
        CheckpointError: The run has no readable checkpoint.
        IdentityError: The dataset is by another teacher.
        RequestError: The run's system is not part of this package and was not named, or the dataset lacks a
            feature, or clips of this split.
    """
    trained = load_trained(run, dataset, with_datasets=with_datasets, system=system)
    where = chosen(device)
    allow_tf32(False)
    evaluation, arrays = trained.system.evaluate(
        trained.model.to(where), trained.dataset, split, device=where, progress=progress
    )
    evaluation = evaluation.model_copy(update={"epoch": trained.checkpoint.epoch})
    write_durably(run / ARRAYS, save(arrays))
    write_durably(run / NUMBERS, evaluation.model_dump_json(indent=1).encode())
    return evaluation

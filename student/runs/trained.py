"""A trained student, built and loaded, whatever its system."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from cache_schema.dataset.join import open_dataset
from student.runs.checkpoint import read_checkpoint
from student.runs.weights import load_strictly
from student.systems import system_of_run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import nn

    from student.loading.dataset import Dataset
    from student.runs.checkpoint import Checkpoint
    from student.system import System


class TrainedStudent(NamedTuple):
    """A run's newest checkpoint, ready to be used."""

    system: System
    model: nn.Module
    """In evaluation mode, on the host."""
    dataset: Dataset
    """What it reads."""
    checkpoint: Checkpoint


def load_trained(
    run: Path, dataset: str | Path, *, with_datasets: Sequence[str | Path] = (), system: str | None = None
) -> TrainedStudent:
    """Build a run's student and load its newest weights; arguments as for ``student.runs.evaluate``.

    Terms of the loss that are not part of this package are left out: what a run's files name is never
    imported.

    Raises:
        CheckpointError: The run has no readable checkpoint, or its weights do not fit.
        IdentityError: The dataset is by another teacher.
        RequestError: The run's system is not part of this package and was not named, or the dataset lacks
            something.
    """
    opened = open_dataset(dataset, *with_datasets)
    checkpoint, weights = read_checkpoint(run)
    config = checkpoint.config
    kind = system_of_run(config.system, system)
    checkpoint.check_reads(opened)
    losses = {name: options for name, options in config.losses.items() if ":" not in name}
    built = kind(config.student, losses)
    model = built.build(opened)
    load_strictly(model, weights)
    return TrainedStudent(built, model.eval(), opened, checkpoint)

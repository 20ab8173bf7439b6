"""Train a student from latent datasets alone. The teacher is never loaded."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from cache_schema.dataset.join import open_dataset
from cache_schema.plugins import require
from cache_schema.progress import SILENT
from student.loading.batches import LatentSamples
from student.runs.folder import check_folder, exclusively
from student.runs.provenance import record_start
from student.runs.tracking import choose_trackers
from student.training.distributed import join_processes
from student.training.environment import recipe_alone
from student.training.trainer import Trainer, TrainResult

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cache_schema.progress import Progress
    from student.loading import Resident
    from student.runs.config import RunConfig


def train(
    dataset: str | Path,
    run: Path,
    config: RunConfig,
    *,
    with_datasets: Sequence[str | Path] = (),
    device: str = "cpu",
    resident: Resident = "none",
    trackers: Sequence[str] | None = None,
    recipe: str = "",
    progress: Progress = SILENT,
) -> TrainResult:
    """Train until ``config.training.epochs`` are done, from the run's last good checkpoint if it has one.

    Started by ``torchrun``, its processes share every batch and give what one would give, to rounding.

    Args:
        dataset: A latent dataset that holds what the configured system needs.
        run: Folder of the run; made if it does not exist.
        config: Everything else that decides the result.
        with_datasets: Further datasets of the same clips, joined with the first.
        device: Torch device; with several processes "cuda" gives each its own.
        resident: Where the training samples stay.
        trackers: Experiment trackers; TensorBoard by default, where it is installed.
        recipe: What reports call the configuration: a preset, and what was changed of it.
        progress: Counts steps.

    Raises:
        RequestError: The dataset lacks a feature, an asset or training clips; the system does not understand
            its configuration; a tracker is unknown; the run's folder cannot be made, is removed meanwhile, or
            is a dataset's; the environment names other processes that cannot be joined.
        DatasetError: Another process trains in the run's folder, or a sample cannot be read.
        CheckpointError: Weights do not fit, all checkpoints are damaged or cannot be followed by another,
            or the folder holds a run of another configuration.
        IdentityError: The folder holds a run on another dataset.
        DivergenceError: The loss is no longer finite; the last checkpoint stays.
    """
    opened = open_dataset(dataset, *with_datasets)
    system = config.make_system()
    config = config.completed(system)
    require(system.gradients, "the gradient rule", "separate", "end_step", "state_dict", "load_state_dict")
    features = system.required_features()
    opened.require(features)
    check_folder(run, opened)
    with contextlib.ExitStack() as stack:
        stack.enter_context(recipe_alone())
        accelerator = join_processes(
            config.training, device=device, trackers=choose_trackers(trackers), logs=run / "tensorboard"
        )
        if accelerator.is_main_process:
            stack.enter_context(exclusively(run))
        accelerator.wait_for_everyone()
        has_val = any(opened.clip(name).split == "val" for name in opened.clips)
        trainer = Trainer(
            accelerator,
            opened,
            run,
            config,
            system=system,
            samples=LatentSamples(opened, "train", features, device=accelerator.device, resident=resident),
            held_out=LatentSamples(opened, "val", features, device=accelerator.device) if has_val else None,
            progress=progress,
        )
        if accelerator.is_main_process and trainer.epoch < config.training.epochs:
            record_start(
                run,
                trainer.trained_on,
                config,
                recipe=recipe,
                step=trainer.step,
                device=accelerator.device,
                processes=accelerator.num_processes,
                resident=resident,
            )
        return trainer.fit()

"""Train a student from a latent dataset. The teacher is never loaded."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import RequestError
from cache_schema.progress import SILENT
from cache_schema.storage.locks import hold
from student.loading.batches import LatentFrames
from student.orion_lite.losses import build_objectives
from student.runs.provenance import record_start
from student.runs.tracking import choose_trackers
from student.training.distributed import join_processes
from student.training.trainer import Training, TrainResult

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    import torch

    from cache_schema.progress import Progress
    from student.runs.config import Resident, TrainConfig

MODEL_NEEDS = ("scene_queries", "ego_token", "ego_trajectory")
"""Features that every student reads, whatever its objectives."""


def train(
    dataset_path: str | Path,
    run: Path,
    config: TrainConfig,
    *,
    device: str = "cpu",
    resident: Resident = "none",
    trackers: Sequence[str] | None = None,
    progress: Progress = SILENT,
) -> TrainResult:
    """Train until ``config.epochs`` are done, from the run's last good checkpoint if it has one.

    Started by ``torchrun``, its processes share every batch and give what one would give, to rounding.

    Args:
        dataset_path: A latent dataset with the teacher's heads and planner.
        run: Folder of the run; made if it does not exist.
        config: Everything else that decides what comes out.
        device: Torch device; with several processes "cuda" gives each its own.
        resident: Where the training frames stay.
        trackers: Experiment trackers; TensorBoard by default, where it is installed.
        progress: Counts steps.

    Raises:
        RequestError: The dataset lacks a feature, an asset or training clips; an objective or a tracker is
            unknown; the run's folder cannot be made.
        DatasetError: Another process trains in the run's folder, or a frame cannot be read.
        CheckpointError: Weights do not fit, all checkpoints are damaged or cannot be followed by another,
            or the folder holds a run of another configuration.
        IdentityError: The folder holds a run on another dataset.
        DivergenceError: The loss is no longer finite; the last checkpoint stays.
    """
    dataset = LatentDataset.open(dataset_path)
    objectives = build_objectives(config.objectives)
    needs = {*MODEL_NEEDS, *(name for objective in objectives.values() for name in objective.needs)}
    dataset.require(needs)
    accelerator = join_processes(
        config, device=device, trackers=choose_trackers(trackers), logs=run / "tensorboard"
    )
    with _alone_in(run) if accelerator.is_main_process else contextlib.nullcontext():
        accelerator.wait_for_everyone()
        frames = LatentFrames(
            dataset, "train", needs, mask=config.mask, device=accelerator.device, resident=resident
        )
        held_out = _held_out(dataset, needs, config, accelerator.device)
        training = Training(
            accelerator,
            dataset,
            run,
            config,
            objectives=objectives,
            frames=frames,
            held_out=held_out,
            progress=progress,
        )
        if accelerator.is_main_process and training.epoch < config.epochs:
            record_start(
                run,
                training.trained_on,
                config,
                step=training.step,
                device=accelerator.device,
                processes=accelerator.num_processes,
                resident=resident,
            )
        return training.go_on()


@contextlib.contextmanager
def _alone_in(run: Path) -> Generator[None]:
    """Make a run's folder, and keep every other run from training in it."""
    with contextlib.ExitStack() as stack:
        try:
            run.mkdir(parents=True, exist_ok=True)
            stack.enter_context(hold(run))
        except OSError as error:
            raise RequestError(
                f"{run} cannot be the folder of a run: {error}",
                expected="a folder that can be made and written to",
                repair="give another run folder, or move what is in the way",
            ) from error
        yield


def _held_out(
    dataset: LatentDataset, needs: set[str], config: TrainConfig, device: torch.device
) -> LatentFrames | None:
    """The validation frames; None where the dataset was extracted without any."""
    if not any(dataset.clip(name).split == "val" for name in dataset.clips):
        return None
    return LatentFrames(dataset, "val", needs, mask=config.mask, device=device)

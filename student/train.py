"""Train a student from a latent dataset. The teacher is never loaded."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from cache_schema.errors import RequestError, TeachonceError
from cache_schema.locks import hold
from cache_schema.store import LatentDataset
from student import checkpoint
from student.build import build_student
from student.checkpoint import Checkpoint, TrainedOn
from student.data import LatentFrames, shuffled
from student.models.weights import load_strictly
from student.objectives import build_objectives
from student.progress import StepProgress
from student.runlog import RunLog

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path

    from torch import Tensor

    from student.config import TrainConfig
    from student.data import Batch
    from student.models.orion_lite import OrionLite, Prediction
    from student.objectives import Objective

MODEL_NEEDS = ("scene_queries", "ego_token", "ego_trajectory")
"""Features that every student reads, whatever its objectives."""

SEED_STRIDE = 1_000_003
"""Between the seeds of neighbouring runs: each epoch has a seed of its own, so that a resumed run repeats an
uninterrupted one, and no run has as many epochs."""


class DivergenceError(TeachonceError):
    """The loss or its gradient is no longer finite."""


class TrainResult(NamedTuple):
    """Where a run stands."""

    epoch: int
    """Epochs done."""
    step: int
    """Optimiser steps done."""


def train(dataset_path: Path, run: Path, config: TrainConfig, *, device: str = "cpu") -> TrainResult:
    """Train until ``config.epochs`` are done, from the last checkpoint in the run's folder if it has one.

    Args:
        dataset_path: A latent dataset with the teacher's heads and planner.
        run: Folder of the run; made if it does not exist.
        config: Everything else.
        device: Torch device.

    Raises:
        RequestError: The dataset lacks a feature, an asset or training clips; an objective is unknown; the
            run's folder cannot be made.
        DatasetError: Another process trains in the run's folder.
        CheckpointError: Weights do not fit, the last checkpoint is damaged or cannot be followed by another,
            or the folder holds a run of another configuration.
        IdentityError: The folder holds a run on another dataset.
        DivergenceError: The loss is no longer finite; the last checkpoint stays.
    """
    dataset = LatentDataset.open(dataset_path)
    objectives = build_objectives(config.objectives)
    needs = {*MODEL_NEEDS, *(name for objective in objectives.values() for name in objective.needs)}
    dataset.require(needs)
    with _alone_in(run):
        frames = LatentFrames(dataset, "train", needs, mask=config.mask, device=torch.device(device))
        held_out = _held_out(dataset, needs, config, torch.device(device))

        torch.manual_seed(config.seed)
        model = build_student(dataset, config).to(device)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        trained_on = TrainedOn.of(dataset)
        epoch = step = 0
        if checkpoint.latest(run) is not None:
            reached, weights = checkpoint.read_checkpoint(run)
            reached.check_resumes(config, trained_on)
            load_strictly(model, weights)
            checkpoint.restore_optimizer(run, model, optimizer)
            epoch, step = reached.epoch, reached.step

        steps_an_epoch = -(-len(frames) // config.batch_size)
        steps_left = max(config.epochs - epoch, 0) * steps_an_epoch
        with RunLog(run, done=epoch) as log, StepProgress(steps_left) as progress:
            while epoch < config.epochs:
                epoch += 1
                began = time.monotonic()
                torch.manual_seed(config.seed * SEED_STRIDE + epoch)
                train_terms = _train_epoch(
                    model, objectives, optimizer, frames, config, epoch, step, log, progress
                )
                step += steps_an_epoch
                val_terms = None if held_out is None else _validate(model, objectives, held_out, config)
                log.write(
                    {"kind": "epoch", "epoch": epoch, "step": step, "train": train_terms, "val": val_terms}
                )
                done = Checkpoint(epoch=epoch, step=step, config=config, trained_on=trained_on)
                checkpoint.save(run, done, model, optimizer)
                progress.say(_line(epoch, config.epochs, train_terms, val_terms, time.monotonic() - began))
        return TrainResult(epoch, step)


@contextlib.contextmanager
def _alone_in(run: Path) -> Generator[None]:
    """Make a run's folder, and keep every other process from training in it."""
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


def _train_epoch(
    model: OrionLite,
    objectives: Mapping[str, Objective],
    optimizer: torch.optim.Optimizer,
    frames: LatentFrames,
    config: TrainConfig,
    epoch: int,
    step: int,
    log: RunLog,
    progress: StepProgress,
) -> dict[str, float]:
    """Go over all training frames once; return every term's mean over frames."""
    model.train()
    sums = _Sums()
    order = shuffled(len(frames), seed=config.seed, epoch=epoch)
    for rows, batch in frames.batches(order, config.batch_size):
        token = batch["ego_token"]
        noise = torch.randn(len(rows), 1, model.planner_config.latent, device=token.device)
        predicted = model(
            batch["scene_queries"], token, trajectory=batch["ego_trajectory"], noise=noise, latent="future"
        )
        terms = _terms(objectives, predicted, batch)
        optimizer.zero_grad(set_to_none=True)
        terms["total"].backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        if not torch.isfinite(terms["total"] + norm):
            raise _divergence(terms, predicted, frames.names(rows), epoch)
        optimizer.step()

        step += 1
        sums.add(terms, len(rows))
        progress.advance(f"epoch {epoch}/{config.epochs}")
        if step % config.log_every == 0:
            values = {name: term.item() for name, term in terms.items()}
            log.write(
                {"kind": "step", "epoch": epoch, "step": step, "train": values, "gradient": norm.item()}
            )
    return sums.means()


@torch.no_grad()
def _validate(
    model: OrionLite, objectives: Mapping[str, Objective], frames: LatentFrames, config: TrainConfig
) -> dict[str, float]:
    """Every term's mean over the held-out frames, the planner deterministic and blind to the truth."""
    model.eval()
    sums = _Sums()
    for rows, batch in frames.batches(np.arange(len(frames)), config.batch_size):
        predicted = model(batch["scene_queries"], batch["ego_token"], trajectory=batch["ego_trajectory"])
        sums.add(_terms(objectives, predicted, batch), len(rows))
    return sums.means()


class _Sums:
    """Sums over frames, kept on the device so that no step waits for them."""

    def __init__(self) -> None:
        self.frames = 0
        self.terms: dict[str, Tensor] = {}

    def add(self, terms: Mapping[str, Tensor], frames: int) -> None:
        self.frames += frames
        for name, term in terms.items():
            self.terms[name] = self.terms.get(name, 0) + term.detach().double() * frames

    def means(self) -> dict[str, float]:
        return {name: term.item() / self.frames for name, term in self.terms.items()}


def _terms(objectives: Mapping[str, Objective], predicted: Prediction, batch: Batch) -> dict[str, Tensor]:
    terms = {name: objective(predicted, batch) for name, objective in objectives.items()}
    return {**terms, "total": torch.stack(list(terms.values())).sum()}


def _held_out(
    dataset: LatentDataset, needs: set[str], config: TrainConfig, device: torch.device
) -> LatentFrames | None:
    """The validation frames; None where the dataset was extracted without any."""
    if not any(dataset.clip(name).split == "val" for name in dataset.clips):
        return None
    return LatentFrames(dataset, "val", needs, mask=config.mask, device=device)


def _divergence(
    terms: Mapping[str, Tensor], predicted: Prediction, names: list[str], epoch: int
) -> DivergenceError:
    broken = [name for name, term in terms.items() if not torch.isfinite(term) and name != "total"]
    finite = predicted.planning_token.isfinite().all(1) & predicted.offsets.isfinite().flatten(1).all(1)
    blamed = [name for name, fine in zip(names, finite.tolist(), strict=True) if not fine] or names
    return DivergenceError(
        f"epoch {epoch}: {', '.join(broken) or 'the gradient'} is not finite for {len(blamed)} of "
        f"{len(names)} frames: {', '.join(blamed[:8])}{', ...' if len(blamed) > 8 else ''}",
        expected="finite losses and gradients",
        repair="verify the dataset, or train in another folder with a preset whose learning rate is lower",
    )


def _line(
    epoch: int, epochs: int, train: Mapping[str, float], val: Mapping[str, float] | None, seconds: float
) -> str:
    def shown(terms: Mapping[str, float]) -> str:
        return " ".join(f"{name} {value:.4g}" for name, value in terms.items())

    held_out = "" if val is None else f" | val {shown(val)}"
    return f"epoch {epoch}/{epochs} in {seconds:.1f} s: train {shown(train)}{held_out}"

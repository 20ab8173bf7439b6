"""The training loop: steps, validation and checkpoints of a run under way."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.func import functional_call

from cache_schema.progress import SILENT
from student.loading.sampler import Sampler, share
from student.orion_lite.build import build_student
from student.orion_lite.model import Prediction
from student.orion_lite.planner import Gaussian
from student.runs import checkpoint
from student.runs.checkpoint import Checkpoint
from student.runs.log import RunLog
from student.runs.provenance import TrainedOn
from student.runs.tracking import flat
from student.runs.weights import load_strictly
from student.training.deferred_metrics import Watch
from student.training.ema import MovingAverage
from student.training.optim import adamw
from student.training.progress import epoch_line
from student.training.schedule import learning_rate, term_factor
from student.training.seeding import latent_noise, seed_dropout

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from accelerate import Accelerator
    from torch import Tensor

    from cache_schema.dataset.reader import LatentDataset
    from cache_schema.progress import Progress
    from student.loading.batches import Batch, LatentFrames
    from student.orion_lite.losses import Objective
    from student.runs.config import TrainConfig
    from student.training.deferred_metrics import Told


class TrainResult(NamedTuple):
    """Where a run stands."""

    epoch: int
    """Epochs done."""
    step: int
    """Optimiser steps done."""


class Training:
    """A run under way: everything that changes from step to step.

    Args:
        accelerator: The processes of the run.
        dataset: Where the teacher's heads and planner are.
        run: Folder of the run.
        config: The recipe.
        objectives: Terms of the loss.
        frames: What is learned from.
        held_out: What is validated on, if anything.
        progress: Counts steps.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        dataset: LatentDataset,
        run: Path,
        config: TrainConfig,
        *,
        objectives: Mapping[str, Objective],
        frames: LatentFrames,
        held_out: LatentFrames | None,
        progress: Progress = SILENT,
    ) -> None:
        self.accelerator, self.run, self.config = accelerator, run, config
        self.objectives, self.frames, self.held_out = objectives, frames, held_out
        self.trained_on = TrainedOn.of(dataset)
        self.sampler = Sampler(
            frames.lengths, batch_size=config.batch_size, seed=config.seed, shuffle=config.shuffle
        )
        torch.manual_seed(config.seed)
        self.model = build_student(dataset, config).to(accelerator.device)
        self.adamw = adamw(self.model, config)
        self.epoch = self.step = 0
        self.sums = _Sums()
        restored = checkpoint.restore(run)
        if restored is not None:
            restored.checkpoint.check_resumes(config, self.trained_on)
            load_strictly(self.model, restored.weights)
            checkpoint.restore_optimizer(restored.moments, self.model, self.adamw)
            self.epoch, self.step = restored.checkpoint.epoch, restored.checkpoint.step
            self.sums = _Sums(restored.checkpoint.frames, dict(restored.checkpoint.sums))
        self.average = None if config.ema_decay is None else MovingAverage(self.model, config.ema_decay)
        if self.average is not None and restored is not None and restored.average is not None:
            self.average.restore(restored.average)
        if accelerator.scaler is not None and restored is not None and restored.checkpoint.scaler is not None:
            accelerator.scaler.load_state_dict(restored.checkpoint.scaler)
        self._freeze_unreached()
        self.network, self.optimizer = accelerator.prepare(self.model, self.adamw)
        self.watch = Watch(accelerator, (*objectives, "total"))
        self.log: RunLog | None = None
        self.progress = progress if accelerator.is_main_process else SILENT

    def _freeze_unreached(self) -> None:
        """Freeze weights that no objective reaches: processes would wait for their gradients for ever."""
        batch = self.frames.read(np.arange(min(2, len(self.frames))))
        given = (batch["scene_queries"], batch["ego_token"])
        predicted = self.model(*given, trajectory=batch["ego_trajectory"], latent="future")
        self._terms(predicted, batch)["total"].backward()
        for weight in self.model.parameters():
            weight.requires_grad_(weight.grad is not None)
        self.model.zero_grad()

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.config.epochs * self.sampler.steps

    def go_on(self) -> TrainResult:
        """Train to the end of the last epoch."""
        left = max(self.steps - self.step, 0)
        with contextlib.ExitStack() as stack:
            if self.accelerator.is_main_process:
                self.log = stack.enter_context(RunLog(self.run, done=self.step))
            self.progress.expect(left)
            named = {"name": self.run.name}
            self.accelerator.init_trackers(
                "teachonce",
                init_kwargs={"tensorboard": {"purge_step": self.step + 1}, "wandb": named, "trackio": named},
            )
            stack.callback(self.accelerator.end_training)
            while self.epoch < self.config.epochs:
                self._epoch()
        return TrainResult(self.epoch, self.step)

    def _epoch(self) -> None:
        """Finish an epoch, validate, and commit."""
        began, epoch, every = time.monotonic(), self.epoch + 1, self.config.checkpoint_every
        for left in self.learn(epoch):
            if every is not None and self.step % every == 0 and left:
                self._note(self.watch.flush())
                self._save()
        self._note(self.watch.flush())
        train_terms = self.sums.means()
        val_terms = None if self.held_out is None else self._validate(self.held_out)
        self.epoch, self.sums = epoch, _Sums()
        self._write(
            {"kind": "epoch", "epoch": epoch, "step": self.step, "train": train_terms, "val": val_terms}
        )
        self._save()
        self.progress.say(
            epoch_line(epoch, self.config.epochs, train_terms, val_terms, time.monotonic() - began)
        )

    def learn(self, epoch: int) -> Iterator[int]:
        """Take every step that is left of an epoch; yield how many are left after each."""
        self.network.train()
        windows = self.sampler.windows(epoch, done=self.step - self.epoch * self.sampler.steps)
        whole = [rows for window in windows for rows in window]
        mine = [[self._mine(rows) for rows in window] for window in windows]
        for left, rows, (own, batch) in zip(
            reversed(range(len(whole))), whole, self.frames.stream(mine, recycle=True), strict=True
        ):
            self._note(self.take_step(rows, own, batch, epoch))
            yield left

    def take_step(self, rows: np.ndarray, own: np.ndarray, batch: Batch, epoch: int) -> list[Told]:
        """Learn from this process's part of a batch; return what earlier steps gave."""
        config, accelerator, step = self.config, self.accelerator, self.step
        # With fewer frames than processes, one has borrowed a frame that counts nothing.
        part = 0.0 if accelerator.process_index >= len(rows) else len(own) / len(rows)
        noise = latent_noise(config.seed, step, len(rows), self.model.planner_config.latent)
        places = torch.from_numpy(self._mine(np.arange(len(rows))))
        noise = noise[places].to(accelerator.device, non_blocking=True)
        seed_dropout(config.seed, step, accelerator.process_index)
        predicted = in_float32(
            self.network(
                batch["scene_queries"],
                batch["ego_token"],
                trajectory=batch["ego_trajectory"],
                noise=noise,
                latent="future",
            )
        )
        terms = self._terms(predicted, batch, step)
        # Processes' gradients are averaged, so that each counts as many times as there are processes.
        accelerator.backward(terms["total"] * (part * accelerator.num_processes))
        gradient = accelerator.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        rate = learning_rate(config, step, self.steps)
        for group in self.adamw.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(step)
        self.step += 1
        self.progress.advance(1, f"epoch {epoch}/{config.epochs}")
        return self.watch.add(
            epoch,
            self.step,
            len(rows),
            names=self.frames.names(own),
            share=part,
            terms=terms,
            gradient=gradient,
            predicted=predicted,
        )

    @torch.no_grad()
    def _validate(self, held_out: LatentFrames) -> dict[str, float]:
        """Every term's mean over the held-out frames, the planner deterministic and blind to the truth."""
        self.model.eval()
        weights = {} if self.average is None else self.average.weights
        processes = self.accelerator.num_processes
        rows = share(np.arange(len(held_out)), self.accelerator.process_index, processes)
        sums = torch.zeros(len(self.objectives) + 1, dtype=torch.float64, device=self.accelerator.device)
        for own, batch in held_out.batches(rows, self.config.batch_size):
            given = (batch["scene_queries"], batch["ego_token"])
            predicted = functional_call(self.model, weights, given, {"trajectory": batch["ego_trajectory"]})
            terms = self._terms(in_float32(predicted), batch)
            sums += torch.stack([term.double() for term in terms.values()]) * len(own)
        if processes > 1:
            sums = self.accelerator.reduce(sums, "sum")
        return dict(zip(self.watch.terms, (sums / len(held_out)).tolist(), strict=True))

    def _terms(
        self, predicted: Prediction, batch: Mapping[str, Tensor], step: int | None = None
    ) -> dict[str, Tensor]:
        """Each term of the loss, and their total; at a step, as far as it has warmed up."""
        terms = {}
        for name, objective in self.objectives.items():
            terms[name] = objective(predicted, batch)
            if step is not None and name in self.config.term_warmup_steps:
                terms[name] = terms[name] * term_factor(self.config, name, step)
        return {**terms, "total": torch.stack(list(terms.values())).sum()}

    def _mine(self, rows: np.ndarray) -> np.ndarray:
        """This process's part of a batch; a borrowed frame where there are fewer frames than processes."""
        own = share(rows, self.accelerator.process_index, self.accelerator.num_processes)
        return own if len(own) else rows[:1]

    def _note(self, told: Iterable[Told]) -> None:
        """Add steps to the sums of the epoch, and every so many to the log."""
        for step in told:
            self.sums.add(step.terms, step.frames)
            if step.step % self.config.log_every == 0:
                self._write(
                    {
                        "kind": "step",
                        "epoch": step.epoch,
                        "step": step.step,
                        "train": step.terms,
                        "gradient": step.gradient,
                        "learning_rate": learning_rate(self.config, step.step - 1, self.steps),
                    }
                )

    def _write(self, line: dict[str, Any]) -> None:
        if self.log is not None:
            self.log.write(line)
        self.accelerator.log(flat(line), step=line["step"])

    def _save(self) -> None:
        """Commit a checkpoint of all that has been looked at; the others wait."""
        scaler = self.accelerator.scaler
        if self.accelerator.is_main_process:
            reached = Checkpoint(
                epoch=self.epoch,
                step=self.step,
                config=self.config,
                trained_on=self.trained_on,
                frames=self.sums.frames,
                sums=self.sums.terms,
                scaler=None if scaler is None else scaler.state_dict(),
            )
            average = None if self.average is None else self.average.weights
            checkpoint.save(self.run, reached, self.model, self.adamw, average)
        self.accelerator.wait_for_everyone()


def in_float32(predicted: Prediction) -> Prediction:
    """Return what a network said in float32, in which losses are computed."""

    def gaussian(said: Gaussian) -> Gaussian:
        return Gaussian(said.mu.float(), said.log_sigma.float())

    return Prediction(
        predicted.planning_token.float(),
        predicted.offsets.float(),
        gaussian(predicted.present),
        None if predicted.future is None else gaussian(predicted.future),
    )


class _Sums:
    """Sums over the frames of an epoch, on the host."""

    def __init__(self, frames: int = 0, terms: dict[str, float] | None = None) -> None:
        self.frames = frames
        self.terms: dict[str, float] = terms or {}

    def add(self, terms: Mapping[str, float], frames: int) -> None:
        self.frames += frames
        for name, value in terms.items():
            self.terms[name] = self.terms.get(name, 0.0) + value * frames

    def means(self) -> dict[str, float]:
        return {name: value / self.frames for name, value in self.terms.items()}

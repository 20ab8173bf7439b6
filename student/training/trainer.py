"""The training loop: steps, validation and checkpoints of a run."""

from __future__ import annotations

import contextlib
import functools
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from cache_schema.progress import SILENT
from student.loading.sampler import Sampler, share
from student.runs import checkpoint
from student.runs.checkpoint import Checkpoint
from student.runs.log import RunLog
from student.runs.provenance import TrainedOn
from student.runs.tracking import flat
from student.runs.weights import load_start, load_strictly
from student.step import StepContext, seed_dropout
from student.training.deferred_metrics import DeferredMetrics, DivergenceError, EpochSums, finite_samples
from student.training.distributed import compile_whole, loss_scale, mean_over_processes
from student.training.gradients import total
from student.training.optim import MovingAverage, adamw, clip, learning_rate, set_learning_rate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from accelerate import Accelerator
    from torch import Tensor

    from cache_schema.progress import Progress
    from student.loading.batches import Batch, LatentSamples
    from student.loading.dataset import Dataset
    from student.runs.config import RunConfig
    from student.system import System
    from student.training.deferred_metrics import StepMetrics


class TrainResult(NamedTuple):
    """How far a run has come."""

    epoch: int
    """Epochs done."""
    step: int
    """Optimiser steps done."""

    def __str__(self) -> str:
        return f"{self.epoch} epochs, {self.step} steps"


class Trainer:
    """A run: everything that changes from step to step.

    Args:
        accelerator: The processes of the run.
        dataset: What the network is built for.
        run: Folder of the run.
        config: Its configuration, complete.
        system: What is trained.
        samples: What is learned from.
        held_out: What is validated on, if anything.
        progress: Counts steps.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        dataset: Dataset,
        run: Path,
        config: RunConfig,
        *,
        system: System,
        samples: LatentSamples,
        held_out: LatentSamples | None,
        progress: Progress = SILENT,
    ) -> None:
        self.accelerator, self.run, self.config, self.system = accelerator, run, config, system
        self.training, self.samples, self.held_out = config.training, samples, held_out
        self.trained_on = TrainedOn.of(dataset)
        size, seed, shuffle = self.training.batch_size, self.training.seed, self.training.shuffle
        self.sampler = Sampler(samples.lengths, batch_size=size, seed=seed, shuffle=shuffle)
        torch.manual_seed(seed)
        self.model = system.build(dataset).to(accelerator.device)
        self.adamw = adamw(self.model, self.training)
        self.epoch = self.step = 0
        self.sums = EpochSums()
        restored = checkpoint.restore(run)
        if restored is not None:
            reached = restored.checkpoint
            reached.check_resumes(config, system, self.trained_on)
            load_strictly(self.model, restored.weights)
            checkpoint.restore_optimizer(restored.moments, self.model, self.adamw)
            system.gradients.load_state_dict(restored.gradients)
            self.epoch, self.step = reached.epoch, reached.step
            self.sums = EpochSums(reached.samples, dict(reached.sums))
            if accelerator.scaler is not None and reached.scaler is not None:
                accelerator.scaler.load_state_dict(reached.scaler)
        elif self.training.start_from is not None:
            load_start(self.model, Path(self.training.start_from))
        decay, saved = self.training.ema_decay, None if restored is None else restored.average
        self.average = None if decay is None else MovingAverage(self.model, decay, saved)
        self._freeze_unreached()
        self.weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        # A rule with several backward passes exchanges its gradient itself, so that DDP must not.
        self.network = accelerator.prepare_model(self.model, evaluation_mode=system.gradients.separate)
        self.optimizer = accelerator.prepare_optimizer(self.adamw)
        if self.training.compile:
            compile_whole(self.model, accelerator.device)
            if system.terms is not None:
                compile_whole(system.terms, accelerator.device)
        self.metrics = DeferredMetrics(accelerator, (*system.losses, "total"))
        self.log: RunLog | None = None
        self.progress = progress if accelerator.is_main_process else SILENT

    def _freeze_unreached(self) -> None:
        """Freeze weights that no term of the loss reaches: DDP would wait for their gradients for ever."""
        rows = np.arange(min(2, self.training.micro_batch_size or 2, len(self.samples)))
        buffers = [(buffer, buffer.clone()) for buffer in self.model.buffers()]
        output = self.system.training_step(self.model, self.samples.read(rows), self._context(rows, rows, 0))
        total(output.losses).backward()
        for weight in self.model.parameters():
            weight.requires_grad_(weight.grad is not None)
        self.model.zero_grad()
        for buffer, before in buffers:  # statistics of a batch that is no step
            buffer.copy_(before)

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.training.epochs * self.sampler.steps

    def fit(self) -> TrainResult:
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
            while self.epoch < self.training.epochs:
                self._epoch()
        return TrainResult(self.epoch, self.step)

    def _epoch(self) -> None:
        """Finish an epoch, validate, and commit a checkpoint."""
        began, epoch, every = time.monotonic(), self.epoch + 1, self.training.checkpoint_every
        for left in self.train_epoch(epoch):
            if every is not None and self.step % every == 0 and left:
                self._record(self.metrics.flush())
                self._save()
        self._record(self.metrics.flush())
        train = self.sums.means()
        val = None if self.held_out is None else self._validate(self.held_out)
        self.epoch, self.sums = epoch, EpochSums()
        self._write({"kind": "epoch", "epoch": epoch, "step": self.step, "train": train, "val": val})
        self._save()
        took_s = time.monotonic() - began
        held_out = "" if val is None else f" | val {_shown(val)}"
        self.progress.message(
            f"epoch {epoch}/{self.training.epochs} in {took_s:.1f} s: train {_shown(train)}{held_out}"
        )

    def train_epoch(self, epoch: int) -> Iterator[int]:
        """Take every step that is left of an epoch; yield how many are left after each."""
        self.network.train()
        windows = self.sampler.windows(epoch, done=self.step - self.epoch * self.sampler.steps)
        steps = [rows for window in windows for rows in window]
        mine = [[part for rows in window for part in self._parts(rows)] for window in windows]
        batches = self.samples.stream(mine, recycle=True)
        for left, rows in zip(reversed(range(len(steps))), steps, strict=True):
            self._record(self.take_step(rows, batches, epoch))
            yield left

    def take_step(
        self, rows: np.ndarray, batches: Iterable[tuple[np.ndarray, Batch]], epoch: int
    ) -> list[StepMetrics]:
        """Learn from this process's part of a batch; return the numbers of earlier steps.

        Args:
            rows: Samples of the step, over all processes.
            batches: This process's samples and their features, in micro-batches; no more are taken than the
                step has.
            epoch: The epoch under way, from 1.
        """
        training, accelerator, step = self.training, self.accelerator, self.step
        rule = self.system.gradients
        parts, positions = self._parts(rows), self._parts(np.arange(len(rows)))
        own = np.concatenate(parts)
        # With fewer samples than processes, one has borrowed a sample that counts nothing.
        portion = 0.0 if accelerator.process_index >= len(rows) else len(own) / len(rows)
        fullness = len(rows) / training.batch_size if training.partial_batch == "fraction" else 1.0
        seed_dropout(training.seed, step, accelerator.process_index)
        losses, finite = [], []
        for number, (part, position, (_, batch)) in enumerate(zip(parts, positions, batches, strict=False)):
            context, fraction = self._context(rows, position, step), len(part) / len(own)
            # DDP exchanges the gradient that has been added up, in the last backward pass.
            last = number == len(parts) - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(self.network):
                output = self.system.training_step(self.network, batch, context)
                scale = loss_scale(accelerator, portion * fraction * fullness)
                rule(output.losses, self.weights, scale, context)
            losses.append({name: loss.detach() * fraction for name, loss in output.losses.items()})
            finite.append(finite_samples(output.outputs))
        reduce = functools.partial(mean_over_processes, accelerator)
        rule.end_step(self.weights, reduce, self._context(rows, np.concatenate(positions), step))
        gradient = clip(accelerator, self.adamw, self.weights, training.clip_norm)
        set_learning_rate(self.adamw, learning_rate(training, step, self.steps))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(step)
        self.step += 1
        self.progress.advance(1, f"epoch {epoch}/{training.epochs}")
        return self.metrics.add(
            epoch,
            self.step,
            len(rows),
            names=self.samples.names(own),
            share=portion,
            losses=self._with_total({name: sum(of[name] for of in losses) for name in losses[0]}),
            gradient=gradient,
            finite=torch.cat(finite),
        )

    @torch.no_grad()
    def _validate(self, held_out: LatentSamples) -> dict[str, float]:
        """Return every term's mean over the held-out samples, with the averaged weights if there are any."""
        self.model.eval()
        processes = self.accelerator.num_processes
        rows = share(np.arange(len(held_out)), self.accelerator.process_index, processes)
        sums = torch.zeros(len(self.metrics.losses), dtype=torch.float64, device=self.accelerator.device)
        with contextlib.nullcontext() if self.average is None else self.average.in_place():
            for own, batch in held_out.batches(rows, self.training.batch_size):
                losses = self._with_total(self.system.validation_step(self.model, batch).losses)
                sums += torch.stack([loss.double() for loss in losses.values()]) * len(own)
        if processes > 1:
            sums = self.accelerator.reduce(sums, "sum")
        return dict(zip(self.metrics.losses, (sums / len(held_out)).tolist(), strict=True))

    def _with_total(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the terms in the order of ``metrics.losses``, and their sum."""
        return {**{name: losses[name] for name in self.system.losses}, "total": total(losses)}

    def _context(self, rows: np.ndarray, positions: np.ndarray, step: int) -> StepContext:
        device = self.accelerator.device
        return StepContext(self.training.seed, step, samples=len(rows), positions=positions, device=device)

    def _parts(self, rows: np.ndarray) -> list[np.ndarray]:
        """Return this process's part of a batch, cut into micro-batches.

        It is a borrowed sample where there are fewer samples than processes.
        """
        own = share(rows, self.accelerator.process_index, self.accelerator.num_processes)
        own = own if len(own) else rows[:1]
        size = self.training.micro_batch_size or len(own)
        return [own[begin : begin + size] for begin in range(0, len(own), size)]

    def _record(self, steps: Iterable[StepMetrics]) -> None:
        """Add steps to the sums of the epoch, and every so many to the log."""
        for metrics in steps:
            self.sums.add(metrics.losses, metrics.samples)
            if metrics.step % self.training.log_every == 0:
                line = {"kind": "step", "epoch": metrics.epoch, "step": metrics.step, "train": metrics.losses}
                rate = learning_rate(self.training, metrics.step - 1, self.steps)
                self._write({**line, "gradient": metrics.gradient, "learning_rate": rate})

    def _write(self, line: dict[str, Any]) -> None:
        if self.log is not None:
            self.log.write(line)
        self.accelerator.log(flat(line), step=line["step"])

    def _save(self) -> None:
        """Commit a checkpoint on the main process while the others wait.

        Raises:
            DivergenceError: The last step has left weights that are not finite; on all processes.
        """
        broken = [name for name, weight in self.model.named_parameters() if not weight.isfinite().all()]
        if broken:
            raise DivergenceError(
                f"epoch {self.epoch}, step {self.step}: {len(broken)} weights are not finite: "
                + ", ".join(broken[:5]),
                expected="finite weights",
                repair="train in another folder with a preset whose learning rate is lower; the last "
                "checkpoint is from before",
            )
        scaler = self.accelerator.scaler
        if self.accelerator.is_main_process:
            reached = Checkpoint(
                epoch=self.epoch,
                step=self.step,
                config=self.config,
                trained_on=self.trained_on,
                samples=self.sums.samples,
                sums=self.sums.losses,
                scaler=None if scaler is None else scaler.state_dict(),
            )
            average = None if self.average is None else self.average.weights
            rule = self.system.gradients.state_dict()
            checkpoint.save(self.run, reached, self.model, self.adamw, average, rule)
        self.accelerator.wait_for_everyone()


def _shown(losses: Mapping[str, float]) -> str:
    return " ".join(f"{name} {value:.4g}" for name, value in losses.items())

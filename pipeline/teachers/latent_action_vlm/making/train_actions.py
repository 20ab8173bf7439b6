"""Learns latent actions from the clips of a driving source, in two stages."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from cache_schema.errors import RequestError
from cache_schema.progress import SILENT
from cache_schema.storage.atomic_io import make_folder, sha256_of
from cache_schema.storage.locks import hold
from cache_schema.storage.paths import refuse_inside_store
from pipeline.teachers.latent_action_vlm.making.checks import check_actions
from pipeline.teachers.latent_action_vlm.making.clips.image_batches import ImageBatches, Scales
from pipeline.teachers.latent_action_vlm.making.clips.observations import Observer
from pipeline.teachers.latent_action_vlm.making.clips.transitions import GAP_S, MOTION, Transitions, read_all
from pipeline.teachers.latent_action_vlm.making.code_restart import CodeRestart
from pipeline.teachers.latent_action_vlm.making.latent_action_model import (
    EgoModel,
    EnvironmentModel,
    mean_square,
)
from pipeline.teachers.latent_action_vlm.making.learned_actions import write_actions
from pipeline.teachers.latent_action_vlm.making.training_loop import fit, join_processes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from accelerate import Accelerator
    from torch import Tensor

    from cache_schema.errors import LeftOut
    from cache_schema.progress import Progress
    from pipeline.source import Source
    from pipeline.teachers.latent_action_vlm.making.actions_config import ActionsConfig
    from pipeline.teachers.latent_action_vlm.making.checks import Checks
    from pipeline.teachers.latent_action_vlm.making.clips.image_batches import TransitionBatch
    from pipeline.teachers.latent_action_vlm.making.clips.transitions import ClipTransitions
    from pipeline.teachers.latent_action_vlm.making.latent_action_model import Quantised

ACTIONS = "actions.safetensors"
"""The result, in the folder of the run; beside it lie the states of the two stages."""


@dataclass(frozen=True)
class TrainActionsReport:
    """How a run ended."""

    file: Path
    sha256: str
    checks: Checks
    failed: tuple[LeftOut, ...]
    """Clips that could not be read."""


def train_actions(
    run: Path,
    source: Source,
    config: ActionsConfig,
    *,
    dinov2: Path | None = None,
    device: str = "cpu",
    workers: int = 1,
    progress: Progress = SILENT,
) -> TrainActionsReport:
    """Train both stages to their ends, from where a run in this folder was stopped; check, and write.

    Args:
        run: Folder of the run; made if it does not exist.
        source: Clips of kind ``driving``; those of the training split are learned from, the others checked.
        config: Everything else that decides the result.
        dinov2: Folder of a DINOv2 with registers, where the configuration asks for one.
        device: Torch device; started by ``accelerate launch``, every process takes its own.
        workers: Processes that read annotations.
        progress: Counts steps of both stages.

    Raises:
        RequestError: The source is of another kind or has no transition on a side of its split; a gradient
            is not finite.
        CheckpointError: The folder holds a run of another configuration or other data.
        ClipError: There are no clips, or an image is not whole.
        DatasetError: Another process trains in the folder.
    """
    found, failed = _read_clips(source, workers)
    trained, held_out = (Transitions(found[side]) for side in ("train", "val"))
    for side, transitions in (("training", trained), ("validation", held_out)):
        if not len(transitions):
            raise RequestError(
                f"no {side} clip of {source.identity.name} has two frames that are {GAP_S:g} s apart",
                expected="transitions to learn from, and others to check what was learned",
                repair="give a data root with longer clips, on both sides of its split",
            )
    refuse_inside_store(run)
    make_folder(run)
    accelerator = join_processes(config, device)
    with hold(run) if accelerator.is_main_process else contextlib.nullcontext():
        accelerator.wait_for_everyone()
        training = _Training(run, config, source, trained, dinov2, accelerator, progress)
        model = training.stage_2(training.stage_1())
        checks = check_actions(model, training.observer, training.batches, training.read(held_out), config)
        file = run / ACTIONS
        if accelerator.is_main_process:
            described = training.described | {"checks": checks, "clips": len(found["train"])}
            write_actions(file, model, training.observer, described)
        accelerator.wait_for_everyone()
    return TrainActionsReport(file, sha256_of(file), checks, tuple(failed))


def _read_clips(source: Source, workers: int) -> tuple[dict[str, list[ClipTransitions]], list[LeftOut]]:
    """Return the transitions of all clips by their split."""
    if source.kind != "driving":
        raise RequestError(
            f"latent actions are learned from driving, and the source has {source.kind!r} samples",
            expected="a source of kind 'driving'",
            repair="choose another --source",
        )
    selection = source.select("all")
    found, failed = read_all(selection.clips, source.identity.frame_rate_hz, workers=workers)
    split = {clip.name: clip.split for clip in selection.clips}
    sides: dict[str, list[ClipTransitions]] = {"train": [], "val": []}
    for clip in found:
        sides[split[clip.clip]].append(clip)
    return sides, [*selection.failed, *failed]


class _Training:
    """Both stages over the same samples."""

    def __init__(
        self,
        run: Path,
        config: ActionsConfig,
        source: Source,
        transitions: Transitions,
        dinov2: Path | None,
        accelerator: Accelerator,
        progress: Progress,
    ) -> None:
        self.run, self.config, self.accelerator, self.progress = run, config, accelerator, progress
        self.condition, self.motion = Scales.of(transitions.condition), Scales.of(transitions.motion)
        self.batches = self.read(transitions)
        self.observer = Observer(config.observation, config.image_size, folder=dinov2, seed=config.seed)
        self.observer.to(accelerator.device)
        self.described = {
            "config": config,
            "gap_s": GAP_S,
            "observation_weights": self.observer.weights,
            "condition_mean": self.condition.mean.tolist(),
            "condition_std": self.condition.std.tolist(),
            "data": source.identity,
        }
        self.identity = {
            "data": source.identity.model_dump(mode="json"),
            "samples": transitions.digest(),
            "observation_weights": self.observer.weights,
        }
        if accelerator.is_main_process:
            progress.expect(config.steps_1 + config.steps_2)

    def read(self, transitions: Transitions) -> ImageBatches:
        """Return what reads samples."""
        return ImageBatches(
            transitions,
            self.condition,
            self.motion,
            size=self.config.image_size,
            in_memory=self.config.images_in_memory,
            device=self.accelerator.device,
        )

    def stage_1(self) -> EnvironmentModel:
        """Learn environment codes, at first how the condition alone tells what follows."""
        config = self.config
        torch.manual_seed(config.seed)
        model = EnvironmentModel(config.network(self.observer.width)).to(self.accelerator.device)
        alone = int(config.warmup_without_codes * config.steps_1)

        def loss_of(batch: TransitionBatch, step: int) -> tuple[Tensor, Quantised | None]:
            features = self._features(batch)
            if step < alone:
                none = features.new_zeros(len(features), config.tokens, config.code_width)
                decoded = model.decode(features[:, 0], batch.condition, none)
                return mean_square(decoded, features), None
            output = model(features, batch.condition)
            return output.mse + output.environment.loss, output.environment

        self._fit("stage_1", model, model.vq.codebook.weight, config.steps_1, loss_of)
        return model

    def stage_2(self, stage_1: EnvironmentModel) -> EgoModel:
        """Learn ego codes beside environment codes."""
        config = self.config
        kept = config.stage2_environment == "frozen-encoder"
        torch.manual_seed(config.seed + 1)
        model = EgoModel.after(stage_1, keep_encoder=kept).to(self.accelerator.device)
        head = nn.Linear(config.tokens * config.code_width, len(MOTION)).to(self.accelerator.device)

        def loss_of(batch: TransitionBatch, _: int) -> tuple[Tensor, Quantised]:
            output = model(self._features(batch), batch.condition)
            assert output.ego is not None
            loss = output.mse + output.ego.loss + (0.0 if kept else output.environment.loss)
            if config.ego_head:
                told = head(output.ego.value.flatten(1)).float()
                loss = loss + config.ego_head * nn.functional.mse_loss(told, batch.motion)
            return loss, output.ego

        whole = nn.ModuleDict({"model": model, "head": head} if config.ego_head else {"model": model})
        self._fit("stage_2", whole, model.vq_action.codebook.weight, config.steps_2, loss_of)
        return model

    def _features(self, batch: TransitionBatch) -> Tensor:
        return self.observer(batch.images.flatten(0, 1)).unflatten(0, (-1, 2))

    def _fit(
        self,
        name: str,
        model: nn.Module,
        codebook: Tensor,
        steps: int,
        loss_of: Callable[[TransitionBatch, int], tuple[Tensor, Quantised | None]],
    ) -> None:
        restart = CodeRestart(codebook, self.config, steps, self.accelerator)
        found: list[Quantised | None] = [None]

        def loss_alone(batch: TransitionBatch, step: int) -> Tensor:
            with self.accelerator.autocast():
                loss, found[0] = loss_of(batch, step)
            return loss

        def after(_: TransitionBatch, step: int) -> None:
            if found[0] is not None:
                restart.after(found[0], step)

        fit(
            self.run / f"{name}.safetensors",
            {key: weight for key, weight in model.named_parameters() if weight.requires_grad},
            self.config,
            steps=steps,
            samples=len(self.batches.transitions),
            read=self.batches.read,
            loss_of=loss_alone,
            after=after,
            state={"counts": restart.counts},
            identity=self.identity | {"stage": name},
            accelerator=self.accelerator,
            progress=self.progress,
        )

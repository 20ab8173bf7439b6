"""Training of a small teacher on synthetic clips, in stages.

First its backbone learns which agents single images show, as the released one has learned to detect before.
Then all else learns from single frames, and at last all of it from windows, over which memory is unrolled.

Every step draws its windows and its noise from a generator of its own, so that a run that is interrupted goes
on as if it had not been.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from cache_schema.progress import SILENT
from cache_schema.vocabulary.orion import planner_shapes
from pipeline.bench2drive.geometry import CAMERAS
from pipeline.teachers.orion.checkpoints.tensors import PLANNER_PREFIX, model_shapes, random_weights
from pipeline.teachers.orion.network.model import Orion
from pipeline.teachers.orion.training.auxiliary_losses import (
    BOX_CENTRE,
    TokenClasses,
    attention_loss,
    denoising_loss,
)
from pipeline.teachers.orion.training.examples import held_out_plan, training_plan
from pipeline.teachers.orion.training.losses import detection_loss, map_loss, planning_loss
from pipeline.teachers.orion.training.planner import Planner
from pipeline.teachers.orion.training.unroll import drop_cached_positions, in_order, unroll

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from cache_schema.progress import Progress
    from pipeline.teachers.orion.presets import OrionPreset
    from pipeline.teachers.orion.training.examples import ClipPlan
    from pipeline.teachers.orion.training.unroll import Windows

CHECKPOINT = "checkpoint.pt"
"""Weights and optimiser of a run that is not finished."""
_SEEDS = 10**6
"""More than any run has steps."""
LOG = "log.jsonl"
"""Mean losses between two checkpoints."""


class Stage(BaseModel):
    """A stretch of a run, with a learning rate that falls to nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    steps: int = Field(gt=0)
    """Optimiser steps."""
    length: int | None = Field(gt=0)
    """Frames over which the memory is unrolled. None: the backbone alone learns, from single images."""
    batch: int = Field(gt=0)
    """Windows of that length, or images."""
    learning_rate: float = Field(gt=0)
    """Largest of AdamW: it rises in the first steps, and falls evenly to 0 at the last."""
    backbone_factor: float = Field(1.0, ge=0)
    """Of the learning rate, for the backbone. 0: it is frozen, while what reads it is still random."""
    warmup: int = Field(50, gt=0)
    """Steps in which it rises."""

    def rate(self, step: int) -> float:
        """Return the learning rate of one of the stage's steps."""
        return self.learning_rate * min((step + 1) / self.warmup, 1 - step / self.steps)


class TeacherTraining(BaseModel):
    """Settings of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    clips: int = Field(320, gt=0)
    """Clips to learn from, as an expert drives them."""
    weaving: int = Field(120, ge=0)
    """More clips, in which the ego weaves, to learn the way back from."""
    windows: int = Field(3, gt=0)
    """Windows of each."""
    length: int = Field(4, gt=0)
    """Frames of a window."""
    held_out: int = Field(18, gt=0)
    """Clips to measure with, of another seed."""
    data_seed: int = 1
    """Of the clips to learn from; the next one is of those to measure with."""
    seed: int = 0
    """Of the first weights, and of what each step draws."""
    stages: tuple[Stage, ...] = (
        Stage(steps=9000, length=None, batch=24, learning_rate=2e-3),
        Stage(steps=2800, length=1, batch=8, learning_rate=1e-3, backbone_factor=0.0),
        Stage(steps=2400, length=4, batch=4, learning_rate=1e-3, backbone_factor=0.25),
    )
    """One after the other."""
    weight_decay: float = 1e-2
    """Of AdamW."""
    clip_norm: float = 35.0
    """Largest norm of the gradient."""
    log_every: int = 50
    """Steps between two lines of the log, and two checkpoints."""

    @model_validator(mode="after")
    def _windows_are_long_enough(self) -> TeacherTraining:
        longest = max(stage.length or 0 for stage in self.stages)
        if longest > self.length:
            raise ValueError(f"a stage unrolls {longest} frames, of windows of {self.length}")
        return self

    @property
    def steps(self) -> int:
        """Of all stages."""
        return sum(stage.steps for stage in self.stages)

    def at(self, step: int) -> tuple[Stage, int]:
        """Return the stage of a step, and the step's number in it."""
        for stage in self.stages:
            if step < stage.steps:
                return stage, step
            step -= stage.steps
        raise IndexError(f"step {step} after the last")

    @property
    def learned(self) -> list[ClipPlan]:
        """Plans of the clips to learn from."""
        return [
            training_plan(
                self.data_seed, clip, windows=self.windows, length=self.length, weaves=clip >= self.clips
            )
            for clip in range(self.clips + self.weaving)
        ]

    @property
    def measured(self) -> list[ClipPlan]:
        """Plans of the clips to measure with."""
        return [held_out_plan(self.data_seed + 1, clip) for clip in range(self.held_out)]


class Trained(NamedTuple):
    """A teacher and its planner, and what only its training needs."""

    model: Orion
    planner: Planner
    token_classes: TokenClasses

    @classmethod
    def drawn(cls, preset: OrionPreset, seed: int) -> Trained:
        """Return random weights, those of the preset's random teacher of this seed."""
        model, planner = Orion(preset.config), Planner(preset.config.language.width)
        model.load_state_dict(dict(random_weights(model_shapes(preset.config), seed)))
        shapes = planner_shapes(preset.config.language.width)
        planner.load_state_dict(dict(random_weights(shapes, seed)))
        return cls(model, planner, TokenClasses(preset.config))

    @torch.no_grad()
    def look_where_agents_are(self, windows: Windows, seed: int) -> None:
        """Move the reference points of object queries to places of agents, drawn from those of the windows.

        A query finds objects near its own reference point: of those that are drawn all over the volume, most
        would have nothing to find.
        """
        head = self.model.pts_bbox_head
        places = head.volume.normalise(windows["boxes"][windows["labels"] >= 0][:, BOX_CENTRE])
        generator = torch.Generator().manual_seed(seed)
        for points in (head.reference_points.weight, head.pseudo_reference_points.weight):
            points.copy_(places[torch.randint(len(places), (len(points),), generator=generator)])

    def parameters(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Return what learns: the backbone, and all else."""
        backbone = list(self.model.img_backbone.parameters())
        known = set(backbone)
        return backbone, [weight for part in self for weight in part.parameters() if weight not in known]

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the teacher's weights by the names of ``teacher_shapes``, sorted."""
        own = self.model.state_dict()
        own |= {PLANNER_PREFIX + name: weight for name, weight in self.planner.state_dict().items()}
        yield from sorted(own.items())


def train(
    preset: OrionPreset,
    settings: TeacherTraining,
    run: Path,
    windows: Windows,
    *,
    progress: Progress = SILENT,
) -> Trained:
    """Train a teacher from random weights.

    Args:
        preset: Its sizes.
        settings: Steps and optimiser.
        run: Folder of checkpoint and log. A run with the same settings goes on from there.
        windows: What it learns from.
        progress: Counts steps.
    """
    run.mkdir(parents=True, exist_ok=True)
    trained = Trained.drawn(preset, settings.seed)
    trained.look_where_agents_are(windows, settings.seed)
    optimiser = torch.optim.AdamW(
        [{"params": weights} for weights in trained.parameters()], weight_decay=settings.weight_decay
    )
    begin = _resume(run / CHECKPOINT, settings, trained, optimiser)
    progress.expect(settings.steps - begin)
    losses: list[dict[str, float]] = []
    for step in range(begin, settings.steps):
        losses.append(_step(preset, settings, trained, optimiser, windows, step))
        progress.advance()
        stage, number = settings.at(step)
        if (number + 1) % settings.log_every == 0 or number + 1 == stage.steps:
            means = {name: sum(loss[name] for loss in losses) / len(losses) for name in losses[0]}
            _log(run / LOG, {"step": step + 1} | means)
            _save(run / CHECKPOINT, settings, trained, optimiser, step + 1)
            losses.clear()
    return trained


def _step(
    preset: OrionPreset,
    settings: TeacherTraining,
    trained: Trained,
    optimiser: torch.optim.Optimizer,
    windows: Windows,
    step: int,
) -> dict[str, float]:
    """Make one step; return its losses."""
    generator = torch.Generator().manual_seed(settings.seed * _SEEDS + step)
    stage, number = settings.at(step)
    backbone, others = optimiser.param_groups
    others["lr"] = stage.rate(number)
    backbone["lr"] = stage.backbone_factor * others["lr"]
    trained.model.img_backbone.requires_grad_(stage.backbone_factor > 0)
    if stage.length is None:
        losses = _image_losses(preset, trained, windows, stage.batch, generator)
    else:
        losses = _window_losses(preset, trained, windows, stage.batch, stage.length, generator)
    optimiser.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    nn.utils.clip_grad_norm_([*backbone["params"], *others["params"]], settings.clip_norm)
    optimiser.step()
    return {name: loss.item() for name, loss in losses.items()}


def _image_losses(
    preset: OrionPreset, trained: Trained, windows: Windows, batch: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return the losses of a batch of images' tokens."""
    sizes = windows["images"].shape[:3]  # windows, frames, cameras
    rows, frames, cameras = (torch.randint(size, (batch,), generator=generator) for size in sizes)
    truth = {name: windows[name][rows, frames] for name in ("boxes", "labels")}
    backbone = trained.model.img_backbone
    drop_cached_positions(backbone)
    tokens = backbone(preset.images.normalise(windows["images"][rows, frames, cameras])).flatten(1, 2)
    return trained.token_classes.loss(tokens, windows["lidar2img"][rows, frames, cameras], truth)


def _window_losses(
    preset: OrionPreset,
    trained: Trained,
    windows: Windows,
    batch: int,
    length: int,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Return the losses of a batch of windows of a length, which begin anywhere in those that were drawn."""
    count, frames = windows["command"].shape
    rows = torch.randint(count, (batch, 1), generator=generator)
    first = torch.randint(frames - length + 1, (batch, 1), generator=generator)
    chosen = {name: values[rows, first + torch.arange(length)] for name, values in windows.items()}
    output, truth = unroll(trained.model, preset.config, preset.images, chosen), in_order(chosen)
    images = {name: truth[name].repeat_interleave(len(CAMERAS), dim=0) for name in ("boxes", "labels")}
    tokens = output.tokens.unflatten(1, (len(CAMERAS), -1)).flatten(0, 1)
    return {
        **planning_loss(trained.planner, output.planning_token, truth, generator),
        **detection_loss(output.detection, truth),
        **map_loss(output.road_map, truth),
        **trained.token_classes.loss(tokens, truth["lidar2img"].flatten(0, 1), images),
        **attention_loss(trained.model, preset.config, output, truth["lidar2img"], generator),
        **denoising_loss(trained.model, output, truth, generator),
    }


def _save(
    file: Path, settings: TeacherTraining, trained: Trained, optimiser: torch.optim.Optimizer, step: int
) -> None:
    state = {
        "settings": settings.model_dump(),
        "step": step,
        "trained": [part.state_dict() for part in trained],
        "optimiser": optimiser.state_dict(),
    }
    unfinished = file.with_suffix(".partial")
    torch.save(state, unfinished)
    unfinished.replace(file)


def _resume(file: Path, settings: TeacherTraining, trained: Trained, optimiser: torch.optim.Optimizer) -> int:
    """Load what an interrupted run with the same settings saved; return the number of its steps."""
    if not file.exists():
        return 0
    state = torch.load(file, weights_only=True)
    if state["settings"] != settings.model_dump():
        return 0
    for part, weights in zip(trained, state["trained"], strict=True):
        part.load_state_dict(weights)
    optimiser.load_state_dict(state["optimiser"])
    return state["step"]


def _log(file: Path, values: dict[str, object]) -> None:
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(values) + "\n")

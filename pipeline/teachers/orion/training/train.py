"""Training of a small teacher on synthetic clips.

Every step draws its windows and its noise from a generator of its own, so that a run that is interrupted goes
on as if it had not been.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field

from cache_schema.progress import SILENT
from cache_schema.vocabulary.orion import planner_shapes
from pipeline.teachers.orion.checkpoints.tensors import PLANNER_PREFIX, model_shapes, random_weights
from pipeline.teachers.orion.network.model import Orion
from pipeline.teachers.orion.training.examples import held_out_plan, training_plan
from pipeline.teachers.orion.training.losses import detection_loss, map_loss, planning_loss
from pipeline.teachers.orion.training.planner import Planner
from pipeline.teachers.orion.training.unroll import in_order, unroll

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


class TeacherTraining(BaseModel):
    """Settings of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    clips: int = Field(320, gt=0)
    """Clips to learn from."""
    windows: int = Field(3, gt=0)
    """Windows of each."""
    length: int = Field(4, gt=0)
    """Frames of a window, over which the memory is unrolled."""
    held_out: int = Field(18, gt=0)
    """Clips to measure with, of another seed."""
    data_seed: int = 1
    """Of the clips to learn from; the next one is of those to measure with."""
    seed: int = 0
    """Of the first weights, and of what each step draws."""
    steps: int = Field(5000, gt=0)
    """Optimiser steps."""
    batch: int = Field(4, gt=0)
    """Windows of a step."""
    learning_rate: float = 1e-3
    """Largest of AdamW: it falls evenly to 0 at the last step."""
    warmup: int = 50
    """Steps in which the rate rises."""
    weight_decay: float = 1e-2
    """Of AdamW."""
    clip_norm: float = 35.0
    """Largest norm of the gradient."""
    log_every: int = 50
    """Steps between two lines of the log, and two checkpoints."""

    @property
    def learned(self) -> list[ClipPlan]:
        """Plans of the clips to learn from."""
        return [
            training_plan(self.data_seed, clip, windows=self.windows, length=self.length)
            for clip in range(self.clips)
        ]

    @property
    def measured(self) -> list[ClipPlan]:
        """Plans of the clips to measure with."""
        return [held_out_plan(self.data_seed + 1, clip) for clip in range(self.held_out)]

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        return self.learning_rate * min((step + 1) / self.warmup, 1 - step / self.steps)


class Trained(NamedTuple):
    """A teacher and its planner."""

    model: Orion
    planner: Planner

    @classmethod
    def drawn(cls, preset: OrionPreset, seed: int) -> Trained:
        """Return random weights, those of the preset's random teacher of this seed."""
        model, planner = Orion(preset.config), Planner(preset.config.language.width)
        model.load_state_dict(dict(random_weights(model_shapes(preset.config), seed)))
        shapes = planner_shapes(preset.config.language.width)
        planner.load_state_dict(dict(random_weights(shapes, seed)))
        return cls(model, planner)

    @torch.no_grad()
    def look_where_agents_are(self, windows: Windows, seed: int) -> None:
        """Move the reference points of object queries to places of agents, drawn from those of the windows.

        A query finds objects near its own reference point: of those that are drawn all over the volume, most
        would have nothing to find.
        """
        head = self.model.pts_bbox_head
        places = head.volume.normalise(windows["boxes"][windows["labels"] >= 0][:, [0, 1, 4]])
        generator = torch.Generator().manual_seed(seed)
        for points in (head.reference_points.weight, head.pseudo_reference_points.weight):
            points.copy_(places[torch.randint(len(places), (len(points),), generator=generator)])

    def parameters(self) -> list[torch.nn.Parameter]:
        """Return all weights."""
        return [*self.model.parameters(), *self.planner.parameters()]

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield all weights by the names of ``teacher_shapes``, sorted."""
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
    optimiser = torch.optim.AdamW(trained.parameters(), weight_decay=settings.weight_decay)
    begin = _resume(run / CHECKPOINT, settings, trained, optimiser)
    progress.expect(settings.steps - begin)
    losses: list[dict[str, float]] = []
    for step in range(begin, settings.steps):
        losses.append(_step(preset, settings, trained, optimiser, windows, step))
        progress.advance()
        if (step + 1) % settings.log_every == 0 or step + 1 == settings.steps:
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
    rows = torch.randint(len(windows["command"]), (settings.batch,), generator=generator)
    chosen = {name: values[rows] for name, values in windows.items()}
    output, truth = unroll(trained.model, preset.config, preset.images, chosen), in_order(chosen)
    losses = {
        **planning_loss(trained.planner, output.planning_token, truth, generator),
        **detection_loss(output.detection, truth),
        **map_loss(output.road_map, truth),
    }
    for group in optimiser.param_groups:
        group["lr"] = settings.rate(step)
    optimiser.zero_grad()
    torch.stack(list(losses.values())).sum().backward()
    torch.nn.utils.clip_grad_norm_(trained.parameters(), settings.clip_norm)
    optimiser.step()
    return {name: loss.item() for name, loss in losses.items()}


def _save(
    file: Path, settings: TeacherTraining, trained: Trained, optimiser: torch.optim.Optimizer, step: int
) -> None:
    state = {
        "settings": settings.model_dump(),
        "step": step,
        "model": trained.model.state_dict(),
        "planner": trained.planner.state_dict(),
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
    trained.model.load_state_dict(state["model"])
    trained.planner.load_state_dict(state["planner"])
    optimiser.load_state_dict(state["optimiser"])
    return state["step"]


def _log(file: Path, values: dict[str, object]) -> None:
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(values) + "\n")

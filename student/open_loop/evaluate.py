"""Open-loop error of a student, beside its teacher's and two trivial drivers'.

Drivers plan first, from what was known at each frame, and only then is the truth read: a plan cannot have
seen it. ``student.open_loop.evaluation`` says what is found.

Dimension letters: N frame, T step (of 0.5 s), M measure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch
from safetensors.numpy import save

from cache_schema.dataset.reader import LatentDataset
from cache_schema.storage.atomic_io import write_durably
from cache_schema.vocabulary.driving import AGENTS, COMMANDS
from student.loading.batches import FRAMES_WITHOUT_ORION_TRUTH, LatentFrames
from student.open_loop.bootstrap import Means, groups, means
from student.open_loop.collisions import VARIANTS, collisions
from student.open_loop.evaluation import (
    COLLISION_COLUMNS,
    GROUP_COLUMNS,
    Estimate,
    Evaluation,
    Group,
    TokenLikeness,
)
from student.open_loop.metrics import COLUMNS, l2_columns, rate_columns
from student.open_loop.occupancy import Agents
from student.open_loop.pictured import scenes, spread, worst_of
from student.open_loop.policies import BATCH, KNOWN, MOTION, Plans, plan
from student.orion_lite.build import asset, build_student
from student.orion_lite.planner import Planner
from student.runs.checkpoint import read_checkpoint
from student.runs.weights import load_strictly

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from student.open_loop.evaluation import By
    from student.runs.config import Mask

Part = TypeVar("Part")

TRUE = ("ego_trajectory", "ego_trajectory_mask", "command", "frame_index")
TRUE_AGENTS = (
    "truth_agent_boxes",
    "truth_agent_classes",
    "truth_agent_offsets",
    "truth_agent_offsets_mask",
)
"""Features that collisions are told by, in the order of ``Agents``."""


class Truth(NamedTuple):
    """What really happened, of N frames."""

    positions: np.ndarray
    """(N, T, 2) of the expert."""
    mask: np.ndarray
    """(N, T) bool, steps that have a truth."""
    command: np.ndarray
    """(N)."""
    frame_index: np.ndarray
    """(N)."""
    agents: Agents | None
    """None where the dataset does not hold them."""
    crowded_frames: int | None
    """Frames with more agents than ``agents`` has places for."""


def evaluate(run: Path, dataset_path: str | Path, split: str = "val", *, device: str = "cpu") -> Evaluation:
    """Measure a run's newest checkpoint; write ``evaluation.json`` and ``evaluation.safetensors`` beside it.

    Student and teacher plan without noise, the teacher from stored planning tokens. Constant velocity goes
    straight on at the speed that ``can_bus`` tells. Equal runs and datasets give equal numbers.

    Args:
        run: Folder of a training run.
        dataset_path: A latent dataset by the same teacher, or its URL.
        split: "train", "val" or "all".
        device: Torch device.

    Raises:
        CheckpointError: The run has no readable checkpoint.
        IdentityError: The dataset is by another teacher.
        RequestError: The dataset lacks a feature, or clips of this split.
    """
    dataset = LatentDataset.open(dataset_path)
    dataset.require(TRUE)
    plans, frames, epoch = plans_of(run, dataset, split, device=device)
    truth = read_truth(dataset, frames.clips)
    evaluation, tensors = measure(plans, truth, dataset, frames, epoch=epoch, split=split)
    write_durably(run / "evaluation.safetensors", save(tensors))
    write_durably(run / "evaluation.json", evaluation.model_dump_json(indent=1).encode())
    return evaluation


def plans_of(
    run: Path, dataset: LatentDataset, split: str, *, device: str
) -> tuple[Plans, LatentFrames, int]:
    """What every driver plans, where, and after how many epochs of training; raises as ``evaluate`` does."""
    reached, weights = read_checkpoint(run)
    reached.check_reads(dataset)
    known = (*KNOWN, MOTION) if dataset.manifest.feature(MOTION) is not None else KNOWN
    frames = LatentFrames(dataset, split, known, mask="complete", device=torch.device(device))
    student = build_student(dataset, reached.config)
    load_strictly(student, weights)
    teacher = Planner.from_tensors(asset(dataset, "teacher_planner"))
    return plan(frames, student.to(device).eval(), teacher.to(device)), frames, reached.epoch


def read_truth(dataset: LatentDataset, clips: tuple[str, ...]) -> Truth:
    """Read what really happened in some clips."""

    def all_frames(feature: str) -> np.ndarray:
        return np.concatenate([dataset.read(clip, feature) for clip in clips])

    trajectory, mask, command, frame_index = (all_frames(feature) for feature in TRUE)
    agents = crowded = None
    if all(dataset.manifest.feature(feature) is not None for feature in TRUE_AGENTS):
        agents = Agents(*(all_frames(feature) for feature in TRUE_AGENTS))
        crowded = int((all_frames("truth_agent_count") > AGENTS).sum())
    return Truth(trajectory.cumsum(axis=1), mask, command, frame_index, agents, crowded)


def measure(
    plans: Plans, truth: Truth, dataset: LatentDataset, frames: LatentFrames, *, epoch: int, split: str
) -> tuple[Evaluation, dict[str, np.ndarray]]:
    """Compare plans with the truth; return what is found, and the tensors of every frame."""
    whole = np.all(truth.mask, axis=1)  # (N)
    masks: dict[Mask, np.ndarray] = {
        "complete": whole,
        "orion": whole & (truth.frame_index >= FRAMES_WITHOUT_ORION_TRUTH),
    }
    l2 = {driver: l2_columns(positions, truth.positions) for driver, positions in plans.drives.items()}
    hits = {} if truth.agents is None else _collisions(plans.drives, truth, whole)
    columns = (*COLUMNS, *(COLLISION_COLUMNS if hits else ()))
    values = {
        driver: np.concatenate([l2[driver], *map(rate_columns, hits.get(driver, {}).values())], axis=1)
        for driver in plans.drives
    }  # (N, M) each

    by_mask = {
        driver: {mask: _estimates(columns, table, counted, frames) for mask, counted in masks.items()}
        for driver, table in values.items()
    }
    pictured = spread(whole)
    worst = worst_of(l2["student"][:, COLUMNS.index("up_to_mean")], whole, frames)
    evaluation = Evaluation(
        split=split,
        epoch=epoch,
        clips=frames.clips,
        frames={mask: int(counted.sum()) for mask, counted in masks.items()},
        l2_m=_pick(by_mask, COLUMNS, lambda estimate: estimate.value),
        collision=_pick(by_mask, COLLISION_COLUMNS, lambda estimate: estimate.value) if hits else {},
        interval=_pick(by_mask, columns, lambda estimate: estimate.interval),
        token=_token(plans.token, frames),
        groups=tuple(_groups(values, columns, truth.command, whole, dataset, frames)),
        crowded_frames=truth.crowded_frames,
        missing=_missing(dataset, plans, truth),
        pictures=tuple(frames.names(pictured)),
        worst=tuple(frames.names(worst)),
    )
    tensors = {
        **plans.drives,
        "truth": truth.positions,
        "mask": truth.mask,
        "clip": frames.clip_of.astype(np.int64),
        "frame_index": truth.frame_index.astype(np.int64),
        **{f"l2.{driver}": table.astype(np.float32) for driver, table in l2.items()},
        **{
            f"collision.{driver}.{variant}": steps
            for driver, variants in hits.items()
            for variant, steps in variants.items()
        },
        "token.cosine": plans.token[:, 0].copy(),
        "token.relative": plans.token[:, 1].copy(),
        "picture": pictured,
        "worst": worst,
        **scenes(dataset, frames, pictured),
        **{f"worst.{name}": values for name, values in scenes(dataset, frames, worst).items()},
    }
    return evaluation, tensors


def _collisions(
    drives: dict[str, np.ndarray], truth: Truth, whole: np.ndarray
) -> dict[str, dict[str, np.ndarray]]:
    """Driver -> variant -> (N, T) bool; only frames that count are looked at, a block at a time."""
    assert truth.agents is not None
    found = {driver: {variant: np.zeros_like(truth.mask) for variant in VARIANTS} for driver in drives}
    counted = np.flatnonzero(whole)
    for rows in np.array_split(counted, range(BATCH, len(counted), BATCH)):
        block = collisions(
            {driver: positions[rows] for driver, positions in drives.items()},
            truth.positions[rows],
            truth.agents.at(rows),
        )
        for driver, variants in block.items():
            for variant, hits in variants.items():
                found[driver][variant][rows] = hits
    return found


def _estimates(
    columns: tuple[str, ...], values: np.ndarray, counted: np.ndarray, frames: LatentFrames
) -> dict[str, Estimate | None]:
    """The mean of each column (N, M) over the frames that count; None where there are none."""
    if not counted.any():
        return dict.fromkeys(columns)
    return dict(zip(columns, _of(means(values, counted, frames.clip_of)), strict=True))


def _of(found: Means) -> list[Estimate]:
    ends = zip(found.low.tolist(), found.high.tolist(), strict=True)
    return [
        Estimate(value=value, interval=end if found.clips > 1 else None)
        for value, end in zip(found.value.tolist(), ends, strict=True)
    ]


def _pick(
    by_mask: dict[str, dict[Mask, dict[str, Estimate | None]]],
    columns: tuple[str, ...],
    part: Callable[[Estimate], Part],
) -> dict[str, dict[Mask, dict[str, Part | None]]]:
    """One part of every estimate of some columns; None where there is no estimate."""

    def of(row: dict[str, Estimate | None]) -> dict[str, Part | None]:
        return {name: None if (found := row[name]) is None else part(found) for name in columns}

    return {driver: {mask: of(row) for mask, row in rows.items()} for driver, rows in by_mask.items()}


def _token(likeness: np.ndarray, frames: LatentFrames) -> TokenLikeness:
    every = np.ones(len(likeness), dtype=bool)
    cosine, relative, absolute = _of(means(likeness.astype(np.float64), every, frames.clip_of))
    return TokenLikeness(cosine=cosine, relative=relative, absolute=absolute)


def _groups(
    values: dict[str, np.ndarray],
    columns: tuple[str, ...],
    command: np.ndarray,
    whole: np.ndarray,
    dataset: LatentDataset,
    frames: LatentFrames,
) -> list[Group]:
    told = [name for name in GROUP_COLUMNS if name in columns]
    picked = [columns.index(name) for name in told]
    infos = [dataset.clip(name) for name in frames.clips]
    tags: tuple[By, ...] = ("scenario", "town", "weather")
    of_clip = {tag: [info.tags.get(tag, "") for info in infos] for tag in tags}
    labels: dict[By, np.ndarray] = {"command": np.array(COMMANDS)[command]}
    for by, names in of_clip.items():
        labels[by] = np.array([name or "unknown" for name in names])[frames.clip_of]
    found = []
    for by, label_of in labels.items():
        for name, counted in groups(label_of, whole):
            rows = {
                driver: means(table[:, picked], counted, frames.clip_of) for driver, table in values.items()
            }
            any_row = next(iter(rows.values()))
            found.append(
                Group(
                    by=by,
                    name=name,
                    clips=any_row.clips,
                    frames=any_row.frames,
                    means={driver: dict(zip(told, _of(row), strict=True)) for driver, row in rows.items()},
                )
            )
    return found


def _missing(dataset: LatentDataset, plans: Plans, truth: Truth) -> tuple[str, ...]:
    told = []
    if truth.agents is None:
        told.append(
            "collisions were not measured: the dataset does not hold the true agents; "
            f"`teachonce add-truth {dataset.path} --data ROOT` adds them from the raw clips"
        )
    if "constant_velocity" not in plans.drives:
        told.append(
            f"constant velocity was not measured: the dataset has no {MOTION}; "
            f"`teachonce add-truth {dataset.path} --data ROOT` adds it from the raw clips"
        )
    return tuple(told)

"""Open-loop errors of driving policies, beside those of two trivial ones.

Policies plan first, from what was known at each frame, and only then is the ground truth read: a plan cannot
depend on it. ``student.open_loop.evaluation`` describes the result.

Dimension letters: N frame, T step (of 0.5 s), M measure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from cache_schema.progress import SILENT, Progress
from cache_schema.vocabulary.driving import COMMANDS
from student.loading.batches import LatentSamples
from student.loading.dataset import stores
from student.open_loop.bootstrap import Means, groups, means
from student.open_loop.collisions import VARIANTS, collisions
from student.open_loop.evaluation import (
    COLLISION_COLUMNS,
    GROUP_COLUMNS,
    Estimate,
    Group,
    OpenLoopEvaluation,
    Similarity,
)
from student.open_loop.ground_truth import EGO_FEATURES, GroundTruth, read_ground_truth
from student.open_loop.metrics import COLUMNS, l2_columns, rate_columns
from student.open_loop.pictured import scenes, spread, worst_of
from student.open_loop.policies import BATCH, CAN_BUS, Plans, constant_velocity, plan, stand_still

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import torch

    from student.loading.dataset import Dataset
    from student.open_loop.evaluation import By
    from student.open_loop.ground_truth import Mask
    from student.open_loop.policies import Policy

Part = TypeVar("Part")


def evaluate_open_loop(
    dataset: Dataset,
    split: str,
    policies: Mapping[str, Policy],
    *,
    features: Iterable[str],
    device: torch.device,
    progress: Progress = SILENT,
) -> tuple[OpenLoopEvaluation, dict[str, np.ndarray]]:
    """Measure policies on the frames of a split.

    Constant velocity, if the dataset has the speed, and standing still are measured beside them.

    Args:
        dataset: A driving dataset.
        split: "train", "val" or "all".
        policies: Policies by name; "student" is the one whose largest errors are listed.
        features: What they read, ``command`` included; none may depend on the future.
        device: Where they compute.
        progress: Counts frames.

    Returns:
        What was found, and the arrays of every frame.

    Raises:
        RequestError: The dataset lacks a feature, or clips of this split.
    """
    dataset.require(EGO_FEATURES)
    plans, samples = plan_split(dataset, split, policies, features=features, device=device, progress=progress)
    return measure(plans, read_ground_truth(dataset, samples.clips), dataset, samples, split=split)


def plan_split(
    dataset: Dataset,
    split: str,
    policies: Mapping[str, Policy],
    *,
    features: Iterable[str],
    device: torch.device,
    progress: Progress = SILENT,
) -> tuple[Plans, LatentSamples]:
    """Let policies, and the trivial ones, plan at the frames of a split; raises as ``evaluate_open_loop``."""
    moving = {"constant_velocity": constant_velocity} if stores(dataset, CAN_BUS) else {}
    read = (*features, CAN_BUS) if moving else features
    samples = LatentSamples(dataset, split, read, device=device)
    return plan(samples, {**policies, **moving, "stand_still": stand_still}, progress), samples


def measure(
    plans: Plans, ground_truth: GroundTruth, dataset: Dataset, samples: LatentSamples, *, split: str
) -> tuple[OpenLoopEvaluation, dict[str, np.ndarray]]:
    """Compare plans with the ground truth; return what is found, and the arrays of every frame."""
    counted = ground_truth.counted()
    complete = counted["complete"]
    l2 = {name: l2_columns(positions, ground_truth.positions) for name, positions in plans.positions.items()}
    hits = {} if ground_truth.agents is None else _collisions(plans.positions, ground_truth, complete)
    columns = (*COLUMNS, *(COLLISION_COLUMNS if hits else ()))
    values = {
        name: np.concatenate([l2[name], *map(rate_columns, hits.get(name, {}).values())], axis=1)
        for name in plans.positions
    }  # (N, M) each

    by_mask = {
        name: {mask: _estimates(columns, table, rows, samples) for mask, rows in counted.items()}
        for name, table in values.items()
    }
    pictured = spread(complete)
    worst = worst_of(l2["student"][:, COLUMNS.index("up_to_mean")], complete, samples)
    evaluation = OpenLoopEvaluation(
        split=split,
        clips=samples.clips,
        frames={mask: int(rows.sum()) for mask, rows in counted.items()},
        l2_m=_pick(by_mask, COLUMNS, lambda estimate: estimate.value),
        collision=_pick(by_mask, COLLISION_COLUMNS, lambda estimate: estimate.value) if hits else {},
        interval=_pick(by_mask, columns, lambda estimate: estimate.interval),
        similarity={name: _similarity(table, samples) for name, table in plans.similarity.items()},
        groups=tuple(_groups(values, columns, ground_truth.command, complete, dataset, samples)),
        crowded_frames=ground_truth.crowded_frames,
        missing=_missing(dataset, plans, ground_truth),
        pictures=tuple(samples.names(pictured)),
        worst=tuple(samples.names(worst)),
    )
    arrays = {
        **plans.positions,
        "ground_truth": ground_truth.positions,
        "mask": ground_truth.mask,
        "clip": samples.clip_of.astype(np.int64),
        "frame_index": ground_truth.frame_index.astype(np.int64),
        **{f"l2.{name}": table.astype(np.float32) for name, table in l2.items()},
        **{
            f"collision.{name}.{variant}": steps
            for name, variants in hits.items()
            for variant, steps in variants.items()
        },
        **{
            f"similarity.{name}.{kind}": table[:, column].copy()
            for name, table in plans.similarity.items()
            for column, kind in enumerate(("cosine", "relative"))
        },
        "picture": pictured,
        "worst": worst,
        **scenes(dataset, samples, pictured),
        **{f"worst.{name}": table for name, table in scenes(dataset, samples, worst).items()},
    }
    return evaluation, arrays


def _collisions(
    positions: dict[str, np.ndarray], ground_truth: GroundTruth, counted: np.ndarray
) -> dict[str, dict[str, np.ndarray]]:
    """Return policy -> variant -> (N, T) bool, of the frames that count; a block of frames at a time."""
    assert ground_truth.agents is not None
    found = {name: {variant: np.zeros_like(ground_truth.mask) for variant in VARIANTS} for name in positions}
    numbers = np.flatnonzero(counted)
    for rows in np.array_split(numbers, range(BATCH, len(numbers), BATCH)):
        block = collisions(
            {name: planned[rows] for name, planned in positions.items()},
            ground_truth.positions[rows],
            ground_truth.agents.at(rows),
        )
        for name, variants in block.items():
            for variant, hits in variants.items():
                found[name][variant][rows] = hits
    return found


def _estimates(
    columns: tuple[str, ...], values: np.ndarray, counted: np.ndarray, samples: LatentSamples
) -> dict[str, Estimate | None]:
    """Return the mean of each column (N, M) over the frames that count; None where there are none."""
    if not counted.any():
        return dict.fromkeys(columns)
    return dict(zip(columns, _as_estimates(means(values, counted, samples.clip_of)), strict=True))


def _as_estimates(found: Means) -> list[Estimate]:
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
    """Return one part of every estimate of some columns; None where there is no estimate."""

    def of(row: dict[str, Estimate | None]) -> dict[str, Part | None]:
        return {name: None if (found := row[name]) is None else part(found) for name in columns}

    return {name: {mask: of(row) for mask, row in rows.items()} for name, rows in by_mask.items()}


def _similarity(table: np.ndarray, samples: LatentSamples) -> Similarity:
    every = np.ones(len(table), dtype=bool)
    cosine, relative, absolute = _as_estimates(means(table.astype(np.float64), every, samples.clip_of))
    return Similarity(cosine=cosine, relative=relative, absolute=absolute)


class _Labels(NamedTuple):
    by: By
    names: np.ndarray
    """(N) label of every frame."""


def _groups(
    values: dict[str, np.ndarray],
    columns: tuple[str, ...],
    command: np.ndarray,
    counted: np.ndarray,
    dataset: Dataset,
    samples: LatentSamples,
) -> list[Group]:
    """Return the means of every group of frames that have a command or a tag in common."""
    shown = [name for name in GROUP_COLUMNS if name in columns]
    picked = [columns.index(name) for name in shown]
    infos = [dataset.clip(name) for name in samples.clips]
    tags: tuple[By, ...] = ("scenario", "town", "weather")
    labels = [_Labels("command", np.array(COMMANDS)[command])]
    for tag in tags:
        of_clip = np.array([info.tags.get(tag) or "unknown" for info in infos])
        labels.append(_Labels(tag, of_clip[samples.clip_of]))
    found = []
    for by, names in labels:
        for label, rows in groups(names, counted):
            of_policy = {
                name: means(table[:, picked], rows, samples.clip_of) for name, table in values.items()
            }
            any_row = next(iter(of_policy.values()))
            found.append(
                Group(
                    by=by,
                    name=label,
                    clips=any_row.clips,
                    frames=any_row.frames,
                    means={
                        name: dict(zip(shown, _as_estimates(row), strict=True))
                        for name, row in of_policy.items()
                    },
                )
            )
    return found


def _missing(dataset: Dataset, plans: Plans, ground_truth: GroundTruth) -> tuple[str, ...]:
    missing = []
    if ground_truth.agents is None:
        missing.append(
            "collisions were not measured: the dataset does not hold the ground truth of other road users; "
            f"`teachonce add-truth {dataset} --data ROOT` adds it from the raw clips"
        )
    if "constant_velocity" not in plans.positions:
        missing.append(
            f"constant velocity was not measured: the dataset has no {CAN_BUS}; "
            f"`teachonce add-truth {dataset} --data ROOT` adds it from the raw clips"
        )
    return tuple(missing)

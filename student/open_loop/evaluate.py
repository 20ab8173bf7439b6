"""Open-loop errors of driving policies, beside those of two trivial ones.

Policies plan first, from what was known at each frame, and only then is the ground truth read: a plan cannot
depend on it. ``student.open_loop.evaluation`` describes the result.

Dimension letters: N frame, T step (of 0.5 s), M measure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from cache_schema.progress import SILENT, Progress
from cache_schema.vocabulary.driving import COMMANDS
from student.loading.batches import LatentSamples
from student.loading.dataset import stores
from student.open_loop.bootstrap import means
from student.open_loop.collisions import VARIANTS, collisions
from student.open_loop.evaluation import (
    COLLISION_COLUMNS,
    GROUP_COLUMNS,
    SIMILARITIES,
    By,
    Group,
    OpenLoopEvaluation,
    Similarity,
)
from student.open_loop.ground_truth import EGO_FEATURES, GroundTruth, read_ground_truth
from student.open_loop.metrics import COLUMNS, l2_columns, rate_columns
from student.open_loop.pictured import scenes, spread, worst_of
from student.open_loop.policies import BATCH, CAN_BUS, Plans, constant_velocity, plan, stand_still

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import torch

    from student.loading.dataset import Dataset
    from student.open_loop.ground_truth import Mask
    from student.policy import Policy


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
        name: {
            mask: dict(zip(columns, means(table, rows, samples.clip_of), strict=True)) if rows.any() else {}
            for mask, rows in counted.items()
        }
        for name, table in values.items()
    }

    def each(field: Literal["value", "interval"], of: tuple[str, ...]) -> dict[str, dict[Mask, Any]]:
        """Return one field of every estimate; None where no frame counts."""
        return {
            name: {
                mask: {column: getattr(row.get(column), field, None) for column in of}
                for mask, row in rows.items()
            }
            for name, rows in by_mask.items()
        }

    pictured = spread(complete)
    every = np.ones(len(samples), dtype=bool)
    worst = worst_of(l2["student"][:, COLUMNS.index("up_to_mean")], complete, samples)
    evaluation = OpenLoopEvaluation(
        split=split,
        clips=samples.clips,
        frames={mask: int(rows.sum()) for mask, rows in counted.items()},
        l2_m=each("value", COLUMNS),
        collision=each("value", COLLISION_COLUMNS) if hits else {},
        interval=each("interval", columns),
        similarity={
            name: Similarity(**dict(zip(SIMILARITIES, means(table, every, samples.clip_of), strict=True)))
            for name, table in plans.similarity.items()
        },
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
            for column, kind in enumerate(SIMILARITIES[:2])
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


def _groups(
    values: dict[str, np.ndarray],
    columns: tuple[str, ...],
    command: np.ndarray,
    counted: np.ndarray,
    dataset: Dataset,
    samples: LatentSamples,
) -> Iterator[Group]:
    """Yield the means of every group of frames that have a command or a tag in common."""
    shown = [name for name in GROUP_COLUMNS if name in columns]
    picked = [columns.index(name) for name in shown]
    clips = [dataset.clip(name) for name in samples.clips]
    for by in get_args(By):
        if by == "command":
            labels = np.array(COMMANDS)[command]
        else:
            labels = np.array([clip.tags.get(by) or "unknown" for clip in clips])[samples.clip_of]
        for label in np.unique(labels[counted]):
            rows = counted & (labels == label)
            yield Group(
                by=by,
                name=str(label),
                clips=len(np.unique(samples.clip_of[rows])),
                frames=int(rows.sum()),
                means={
                    policy: dict(zip(shown, means(table[:, picked], rows, samples.clip_of), strict=True))
                    for policy, table in values.items()
                },
            )


def _missing(dataset: Dataset, plans: Plans, ground_truth: GroundTruth) -> tuple[str, ...]:
    missing = []
    if ground_truth.agents is None:
        missing.append(
            "collisions were not measured: the dataset does not hold the ground truth of other road users"
        )
    if "constant_velocity" not in plans.positions:
        missing.append(f"constant velocity was not measured: the dataset has no {CAN_BUS}")
    repair = f"`teachonce add-ground-truth {dataset} --data ROOT` adds it from the raw clips"
    return tuple(f"{reason}; {repair}" for reason in missing)

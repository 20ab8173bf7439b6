"""Ground truth from the raw clips for a dataset that was made without it. The teacher is not needed."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cache_schema.dataset.add_features import extend_clip, extend_manifest, holds
from cache_schema.dataset.reader import LatentDataset
from cache_schema.dataset.writer import DatasetWriter
from cache_schema.errors import ClipError, FeatureError, LeftOut
from cache_schema.progress import SILENT
from cache_schema.vocabulary.driving import GROUND_TRUTH
from pipeline.bench2drive.clip_annotations import read_annotations
from pipeline.bench2drive.clips import RawClip, find_clips

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cache_schema.progress import Progress

SAME_POSE_M = 1e-3
"""Poses of the raw clip and of the dataset that differ by more belong to different recordings."""


@dataclass(frozen=True)
class AddGroundTruthReport:
    """How a run ended."""

    features: tuple[str, ...]
    """Features that the dataset lacked."""
    extended: tuple[str, ...]
    """Clips that this run extended."""
    present: tuple[str, ...]
    """Clips that had the features already."""
    failed: tuple[LeftOut, ...]
    """Clips that could not be extended. The dataset promises the features once there are none."""

    def __rich__(self) -> str:
        """Show it as a line."""
        return (
            f"{len(self.extended)} clips extended by {', '.join(self.features) or 'nothing'}; "
            f"{len(self.present)} had them already"
        )


class _Job(NamedTuple):
    clip: str
    folder: Path
    """Of the raw clip."""
    frame_index: np.ndarray
    """(F) raw numbers of the frames that the dataset holds."""
    ego_pose: np.ndarray | None
    """(F, 4, 4) as the dataset holds it, if it does."""
    features: tuple[str, ...]


def add_ground_truth(
    path: Path, root: Path, *, workers: int = 1, progress: Progress = SILENT
) -> AddGroundTruthReport:
    """Add the ground truth features that the dataset at ``path`` lacks to its clips, in place.

    Safe to stop at any instant and to run again: extended clips are skipped. A dataset of every n-th frame
    gets the ground truth of these frames.

    Args:
        path: The dataset's folder.
        root: Folder of the raw clips, or around ``v1/``.
        workers: Processes that read annotations side by side.
        progress: Counts frames.

    Raises:
        ClipError: There are no raw clips at all.
        RequestError: The dataset does not record which raw frames it holds.
        DatasetError: The disk refuses, another run writes to the dataset, or it is damaged.
    """
    with DatasetWriter(path):
        dataset = LatentDataset.open(path)
        missing = tuple(spec for spec in GROUND_TRUTH if dataset.manifest.feature(spec.name) is None)
        dataset.require(("frame_index",))
        names = tuple(spec.name for spec in missing)
        if not missing:
            return AddGroundTruthReport((), (), dataset.clips, ())
        raw = {clip.name: clip for clip in find_clips(root).clips}
        present = tuple(clip for clip in dataset.clips if holds(dataset.entry(clip), missing))
        failed: list[LeftOut] = []
        jobs: list[_Job] = []
        for clip in sorted(set(dataset.clips) - set(present)):
            if clip in raw:
                jobs.append(_job(dataset, clip, raw[clip].path, names))
            else:
                failed.append(LeftOut(clip, f"its raw clip is not in {root}", "unpack its archive there"))
        extended: list[str] = []
        progress.expect(sum(len(job.frame_index) for job in jobs))
        for job, values in _read_all(jobs, workers):
            try:
                extend_clip(path, dataset.manifest, dataset.entry(job.clip), missing, values())
                extended.append(job.clip)
            except (ClipError, FeatureError) as error:
                failed.append(LeftOut.because(job.clip, error))
            progress.advance(len(job.frame_index), f"{len(extended)} clips, {len(failed)} left out")
        if not failed:
            extend_manifest(path, dataset.manifest, missing)
        return AddGroundTruthReport(names, tuple(sorted(extended)), present, tuple(failed))


def _job(dataset: LatentDataset, clip: str, folder: Path, features: tuple[str, ...]) -> _Job:
    has_pose = dataset.manifest.feature("ego_pose") is not None
    ego_pose = dataset.read(clip, "ego_pose") if has_pose else None
    return _Job(clip, folder, dataset.read(clip, "frame_index"), ego_pose, features)


def _read_all(jobs: list[_Job], workers: int) -> Iterator[tuple[_Job, Callable[[], dict[str, np.ndarray]]]]:
    """Yield every job, and a function that returns its values or raises why they could not be read."""
    if workers == 1:
        for job in jobs:
            yield job, lambda job=job: _read(job)
        return
    # Fresh interpreters: a fork of a process that already runs threads may hang.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        reading: dict[Future[dict[str, np.ndarray]], _Job] = {pool.submit(_read, job): job for job in jobs}
        for done in as_completed(reading):
            yield reading.pop(done), done.result


def _read(job: _Job) -> dict[str, np.ndarray]:
    """Values (F, *shape) of the features that a clip lacks.

    Raises:
        ClipError: An annotation is broken, or the raw clip is not the one that the dataset was made from.
    """
    ground_truth = read_annotations(RawClip(job.folder)).ground_truth()
    recorded = len(ground_truth["frame_index"])
    if job.frame_index.min() < 0 or job.frame_index.max() >= recorded:
        raise ClipError(
            f"the raw clip {job.folder} has {recorded} frames, and the dataset holds frame "
            f"{job.frame_index.max()} of it",
            expected="the raw clip that the dataset was made from",
            repair="give the data root that the dataset was extracted from",
        )
    rows = {name: values[job.frame_index] for name, values in ground_truth.items()}
    if job.ego_pose is not None and np.abs(rows["ego_pose"] - job.ego_pose).max() > SAME_POSE_M:
        raise ClipError(
            f"in the raw clip {job.folder} the ego is elsewhere than in the dataset",
            expected="the raw clip that the dataset was made from",
            repair="give the data root that the dataset was extracted from",
        )
    return {name: rows[name] for name in job.features}

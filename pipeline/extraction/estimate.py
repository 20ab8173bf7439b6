"""The cost of a run, estimated before it starts. Writes nothing."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from rich.console import Group

from cache_schema.dataset.reader import LatentDataset
from cache_schema.dataset.writer import check_path
from cache_schema.format.encodings import stored_arrays
from cache_schema.format.layout import file_sizes
from cache_schema.plugins import require
from cache_schema.processors import usable_processors
from cache_schema.terminal import size, table
from pipeline.extraction.gpu_memory import must_suffice_for
from pipeline.extraction.outputs import HostOutputs
from pipeline.extraction.prefetch import Prefetcher
from pipeline.extraction.run import committed_clips
from pipeline.source import inputs_of
from pipeline.teachers.protocol import check_kind

if TYPE_CHECKING:
    from pathlib import Path

    from cache_schema.errors import LeftOut
    from cache_schema.format.features import FeatureSpec
    from pipeline.source import Selection
    from pipeline.teachers.protocol import Teacher, TeacherPreset

WARM_UP, MEASURED = 2, 8
"""Samples a slot: kernels are chosen and memory is reserved during the first."""
VARIES = "varies"
"""Shown for the size of a ragged feature."""


@dataclass(frozen=True)
class Plan:
    """The size of a dataset, and the time to compute what is missing of it."""

    path: Path
    clips: int
    frames: int
    features: tuple[FeatureSpec, ...]
    nbytes: int
    """Bytes of all values of all frames, without ragged features; files add less than one percent."""
    files: int
    """Files under ``clips/`` and ``ledger/``, without ragged features."""
    committed_clips: int
    """Clips of the selection that are already in the dataset."""
    committed_frames: int
    frames_per_second: float | None
    """Rate of one worker: measured just now, or while the committed clips were made; None if neither."""
    workers: int
    """Workers to count on."""
    stale: tuple[LeftOut, ...] = ()
    """Clips that the dataset has otherwise than the source."""

    def hours_left(self, workers: int = 1) -> float | None:
        """Return the hours to compute the missing frames with so many workers; None without a known rate."""
        if self.frames_per_second is None:
            return None
        return (self.frames - self.committed_frames) / self.frames_per_second / workers / 3600

    def __rich__(self) -> Group:
        """Show it as a table and lines."""
        features = table("feature", "one frame", "bytes a frame", "all frames", title=str(self.path))
        for spec in self.features:
            ragged = spec.ragged
            features.add_row(
                spec.name,
                f"{spec.dtype}{spec.shape}",
                VARIES if ragged else f"{spec.nbytes:,}",
                VARIES if ragged else size(spec.nbytes * self.frames),
            )
        features.add_section()
        and_more = f" + {VARIES}" if any(spec.ragged for spec in self.features) else ""
        features.add_row(
            "together",
            "",
            f"{self.nbytes // max(self.frames, 1):,}{and_more}",
            f"{size(self.nbytes)}{and_more}",
        )
        hours = self.hours_left(self.workers)
        return Group(
            features,
            f"{self.clips} clips, {self.frames:,} frames, {self.files:,} files{and_more}",
            f"{self.committed_clips} clips and {self.committed_frames:,} frames are already there",
            "time: not measured; use --measure, or plan again once a clip is committed"
            if hours is None
            else f"{self.frames_per_second:.2f} frames/s a worker: {hours:.2f} hours left on {self.workers}, "
            f"{hours * self.workers:.2f} worker-hours",
        )


def plan(
    path: Path,
    selection: Selection,
    preset: TeacherPreset,
    *,
    measured: float | None = None,
    workers: int = 1,
) -> Plan:
    """Estimate the cost of extracting ``selection`` with ``preset`` into the dataset at ``path``.

    Args:
        path: A new path, or a dataset to go on with.
        selection: What is to be extracted.
        preset: The teacher, of which no weights are needed.
        measured: Frames a second of one worker, from ``frames_per_second``.
        workers: Workers to count on.

    Raises:
        RequestError: The teacher cannot read the samples of this source.
        DatasetError: There is something else at ``path``.
    """
    check_kind(preset, selection.source)
    require(selection.source, "the source", "ground_truth")
    check_path(path)
    features = (*preset.features, *inputs_of(selection.source), *selection.source.ground_truth)
    present: tuple[str, ...] = ()
    stale: list[LeftOut] = []
    committed_frames, wall_s = 0, 0.0
    if (path / "zarr.json").exists():
        dataset = LatentDataset.open(path)
        present, stale = committed_clips(selection, path)
        for entry in map(dataset.entry, present):
            committed_frames += entry.clip.frames
            wall_s += entry.wall_s
    return Plan(
        path=path,
        clips=len(selection.clips),
        frames=selection.samples,
        features=features,
        nbytes=selection.samples * sum(spec.nbytes for spec in features if not spec.ragged),
        files=sum(_files_of(clip.samples, features) for clip in selection.clips),
        committed_clips=len(present),
        committed_frames=committed_frames,
        frames_per_second=measured or (committed_frames / wall_s if wall_s else None),
        workers=workers,
        stale=tuple(stale),
    )


@torch.inference_mode()
def frames_per_second(selection: Selection, teacher: Teacher, *, slots: int) -> float:
    """Measure the rate of a teacher on this machine, on the first samples of one clip a slot.

    Returns:
        Samples a second; 0 where there is no clip.

    Raises:
        ClipError: One of them cannot be read.
        RequestError: The GPU's memory does not suffice.
    """
    with must_suffice_for(slots), ThreadPoolExecutor(max(2, usable_processors())) as pool:
        clips = selection.clips[:slots]
        running = [Prefetcher(clip.open(), clip.samples, teacher, pool) for clip in clips]
        idle = [None] * (slots - len(clips))
        state = teacher.begin(slots)
        begun, computed = time.perf_counter(), 0
        for step in range(min([WARM_UP + MEASURED, *(clip.samples for clip in clips)])):
            if step == WARM_UP:
                begun, computed = time.perf_counter(), 0
            batch = teacher.collate([*(samples.next().inputs for samples in running), *idle])
            outputs, state = teacher.step(batch, state)
            HostOutputs(outputs, slots).wait()
            computed += len(clips)
        for samples in running:
            samples.cancel()
        return computed / (time.perf_counter() - begun)


def _files_of(frames: int, features: tuple[FeatureSpec, ...]) -> int:
    """Files of one clip: metadata and shards of every array, the group's metadata, the ledger's entry."""
    arrays = [stored for spec in features if not spec.ragged for stored in stored_arrays(spec)]
    return 2 + sum(1 + len(file_sizes(stored, frames)) for stored in arrays)

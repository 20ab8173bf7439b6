"""What a run would cost. Writes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cache_schema.dataset.reader import LatentDataset
from cache_schema.dataset.writer import check_path
from cache_schema.format.encodings import stored_arrays
from cache_schema.format.layout import file_sizes
from cache_schema.vocabulary.driving import GROUND_TRUTH

if TYPE_CHECKING:
    from pathlib import Path

    from cache_schema.format.features import FeatureSpec
    from pipeline.source import Selection
    from pipeline.teachers.protocol import TeacherPreset


@dataclass(frozen=True)
class Plan:
    """The size of a dataset, and the time to make what is missing of it."""

    clips: int
    frames: int
    features: tuple[FeatureSpec, ...]
    nbytes: int
    """Bytes of all values of all frames; files add less than one percent."""
    files: int
    """Files under ``clips/`` and ``ledger/``."""
    committed_clips: int
    """Clips of the selection that are already in the dataset."""
    committed_frames: int
    frames_a_second: float | None
    """Rate of one worker: measured just now, or while the committed clips were made; None if neither."""

    def hours_left(self, workers: int = 1) -> float | None:
        """Hours to make the missing frames with this many workers; None where no rate is known."""
        if self.frames_a_second is None:
            return None
        return (self.frames - self.committed_frames) / self.frames_a_second / workers / 3600


def plan(path: Path, selection: Selection, preset: TeacherPreset, *, measured: float | None = None) -> Plan:
    """Cost the extraction of ``selection`` by ``preset`` into the dataset at ``path``.

    Args:
        path: A new path, or a dataset to go on with.
        selection: What is to be extracted.
        preset: The teacher, of which no weights are needed.
        measured: Frames a second of one worker, from ``frames_a_second``.

    Raises:
        DatasetError: There is something else at ``path``.
    """
    check_path(path)
    features = (*preset.features, *GROUND_TRUTH)
    committed_frames = committed_clips = 0
    wall_s = 0.0
    if (path / "zarr.json").exists():
        dataset = LatentDataset.open(path)
        names = {clip.name for clip in selection.clips}
        for entry in map(dataset.entry, names.intersection(dataset.clips)):
            committed_clips += 1
            committed_frames += entry.clip.frames
            wall_s += entry.wall_s
    return Plan(
        clips=len(selection.clips),
        frames=selection.frames,
        features=features,
        nbytes=selection.frames * sum(spec.nbytes for spec in features),
        files=sum(_files_of(clip.frames, features) for clip in selection.clips),
        committed_clips=committed_clips,
        committed_frames=committed_frames,
        frames_a_second=measured or (committed_frames / wall_s if wall_s else None),
    )


def _files_of(frames: int, features: tuple[FeatureSpec, ...]) -> int:
    """Files of one clip: metadata and shards of every array, the group's metadata, the ledger's entry."""
    arrays = [stored for spec in features for stored in stored_arrays(spec)]
    return 2 + sum(1 + len(file_sizes(stored, frames)) for stored in arrays)

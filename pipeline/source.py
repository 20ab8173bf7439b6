"""Which clips of a data root a run is about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from cache_schema.errors import ClipError, LeftOut, RequestError
from cache_schema.format.ledger import ClipInfo
from cache_schema.format.manifest import DataIdentity
from pipeline.bench2drive.clips import FRAME_RATE_HZ, clips_folder, find_clips
from pipeline.bench2drive.splits import split_of, validation_clips

if TYPE_CHECKING:
    from pathlib import Path

    from cache_schema.format.ledger import Split
    from pipeline.bench2drive.clips import RawClip
    from pipeline.bench2drive.splits import Split as Choice

BENCH2DRIVE = DataIdentity(name="Bench2Drive", licence="CC BY-NC-ND 4.0", frame_rate_hz=FRAME_RATE_HZ)

DATA_FILE = "data.json"
"""A data root that is not Bench2Drive itself says here what it is: the JSON of a DataIdentity."""


@dataclass(frozen=True)
class SelectedClip:
    """A clip that can be opened."""

    raw: RawClip
    split: Split
    rank: int
    """Its place among all clips of the data root, selected or not: the same in every run over this root."""
    frames: int

    @property
    def name(self) -> str:
        """Name of the clip."""
        return self.raw.name

    @property
    def info(self) -> ClipInfo:
        """What the dataset says of the clip."""
        parts = self.raw.parts
        return ClipInfo(
            name=self.name,
            frames=self.frames,
            split=self.split,
            tags=parts.tags,
        )


@dataclass(frozen=True)
class Selection:
    """The clips of one run."""

    clips: tuple[SelectedClip, ...]
    """Clips that can be opened, sorted by name."""
    failures: tuple[LeftOut, ...]
    """Folders that look like clips but cannot be opened."""
    data: DataIdentity

    @property
    def frames(self) -> int:
        """Frames of all clips."""
        return sum(clip.frames for clip in self.clips)


def select_clips(root: Path, split: Choice = "all") -> Selection:
    """Find the clips of ``split`` below a data root.

    Raises:
        ClipError: There is no clip at all.
        RequestError: There is none of this split.
    """
    discovery = find_clips(root)
    failures = [LeftOut.because(name, error) for name, error in discovery.rejected.items()]
    validation = validation_clips(root)
    clips = []
    for rank, raw in enumerate(discovery.clips):
        side = split_of(raw.name, validation)
        if split not in ("all", side):
            continue
        try:
            clips.append(SelectedClip(raw, side, rank, frames=len(raw.frames)))
        except ClipError as error:
            failures.append(LeftOut.because(raw.name, error))
    if not clips and not failures:
        raise RequestError(
            f"none of the {len(discovery.clips)} clips in {root} is of the split {split!r}",
            expected="at least one clip",
            repair="choose another split, or another data root",
        )
    return Selection(tuple(clips), tuple(failures), _identity_of(root))


def _identity_of(root: Path) -> DataIdentity:
    folder = clips_folder(root.resolve())
    file = (folder.parent if folder.name == "v1" else folder) / DATA_FILE
    if not file.is_file():
        return BENCH2DRIVE
    try:
        return DataIdentity.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise RequestError(
            f"{file} cannot be read: {error}",
            expected="the JSON of a DataIdentity: name, licence and frame_rate_hz",
            repair="correct the file, or remove it if this is Bench2Drive itself",
        ) from error

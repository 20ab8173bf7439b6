"""Make a latent dataset of a dump by Orion-Lite's collector, without running the teacher.

The dump holds 529 tokens of 4096 numbers a frame, of which 528 are projections of 256 numbers each. Where the
teacher's projections are given, these are recovered, and every frame is checked against them; without, the
tokens are stored as they are. What the dump does not hold (poses, CAN bus) is not promised.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cache_schema.dataset.writer import DatasetWriter
from cache_schema.errors import ClipError, FeatureError, LeftOut
from cache_schema.format.ledger import ClipInfo
from cache_schema.format.manifest import TeacherIdentity
from cache_schema.processors import usable_processors
from cache_schema.progress import SILENT
from pipeline.bench2drive.source import BENCH2DRIVE
from pipeline.committed import Candidate, Fingerprints, committed
from pipeline.importers.orion_lite.npz_dump import find_dump, read_frame
from pipeline.importers.orion_lite.npz_features import FrameConversion
from pipeline.importers.orion_lite.query_recovery import TOLERANCE, read_teacher
from pipeline.manifest import new_manifest
from pipeline.teachers.orion.presets import ORION_7B

if TYPE_CHECKING:
    from pathlib import Path

    from cache_schema.dataset.clip_writer import ClipWriter
    from cache_schema.format.manifest import Manifest
    from cache_schema.progress import Progress
    from pipeline.importers.orion_lite.npz_dump import Dump, DumpedClip
    from pipeline.importers.orion_lite.npz_features import Frame
    from pipeline.importers.orion_lite.query_recovery import TeacherParts
    from pipeline.teachers.orion.presets import OrionPreset

BLOCK_FRAMES = 16
"""Frames that are in memory at a time."""
PROBES = 3
"""Frames of different clips that are examined before anything is written."""
PROBES_PER_CLIP = 3
"""Frames of a clip that are tried until one opens."""
FAULTS_SHOWN = 3
"""Frames of a clip that are named."""


@dataclass(frozen=True)
class ImportReport:
    """How an import ended."""

    committed: tuple[str, ...]
    """Clips that this run added."""
    present: tuple[str, ...]
    """Clips of the dump that were there before."""
    failed: tuple[LeftOut, ...]
    """Clips that were left out, and files that belong to none."""
    lacking: dict[str, str]
    """Features of an extraction that the dump has no data for, and why."""
    frames: int
    """Frames of the clips that it added."""
    largest_error: float | None
    """Largest relative error of their tokens when projected again from the queries; None at full width."""
    wall_s: float

    def __rich__(self) -> str:
        """Show it as lines."""
        lines = [
            f"{len(self.committed)} clips and {self.frames:,} frames in {self.wall_s:.1f} s; "
            f"{len(self.present)} clips were already there"
        ]
        if self.largest_error is not None:
            lines.append(
                f"tokens projected from the queries differ by at most {self.largest_error:.1e} (relative)"
            )
        lines += [f"without {feature}: {reason}" for feature, reason in self.lacking.items()]
        return "\n".join(lines)


def import_npz(
    folder: Path,
    out: Path,
    teacher: Path | None = None,
    *,
    preset: OrionPreset = ORION_7B,
    progress: Progress = SILENT,
) -> ImportReport:
    """Write the frames of a dump to the dataset at ``out``. Run again, it goes on where it stopped.

    Args:
        folder: The dump: a flat folder, or ``train/`` and ``val/``.
        out: The dataset's folder; made if it does not exist.
        teacher: ``teacher_heads.safetensors``, ``Orion.pth`` or a folder converted from it; None for full
            width. A whole checkpoint also holds the planner, without which no student starts.
        preset: Sizes of the teacher that made the dump.
        progress: Counts clips.

    Raises:
        ClipError: There is no frame in the folder, or none opens.
        CheckpointError: The projections cannot be read, or are not those of the dump.
        IdentityError: At ``out`` is a dataset that was made from something else.
        DatasetError: The disk refuses, or another run writes to the dataset.
    """
    begun = time.perf_counter()
    dump = find_dump(folder)
    parts = None if teacher is None else read_teacher(teacher, preset.config)
    conversion = FrameConversion(_probes(dump), preset, None if parts is None else parts.heads)
    added, failed = [], [*dump.failures]
    frames, errors = 0, [0.0]
    with (
        DatasetWriter(out, _manifest(conversion, parts), parts.assets if parts else {}) as writer,
        Fingerprints(out) as fingerprints,
        ThreadPoolExecutor(usable_processors()) as pool,
    ):
        present, stale = committed(out, map(_candidate, dump.clips))
        failed += stale
        skip = {*present, *(clip.clip for clip in stale)}
        progress.expect(len(dump.clips))
        for clip in dump.clips:
            try:
                if clip.name not in skip:
                    fingerprints.begin(clip.name, clip.fingerprint())
                    errors.append(_import_clip(clip, writer.clip(_info(clip)), conversion, pool))
                    added.append(clip.name)
                    frames += len(clip.files)
            except (ClipError, FeatureError) as error:
                failed.append(LeftOut.because(clip.name, error))
            progress.advance()
    return ImportReport(
        committed=tuple(added),
        present=present,
        failed=tuple(failed),
        lacking=conversion.lacking,
        frames=frames,
        largest_error=None if parts is None else max(errors),
        wall_s=time.perf_counter() - begun,
    )


def _probes(dump: Dump) -> list[Frame]:
    """Read one frame each of some clips."""
    probes: list[Frame] = []
    fault = None
    for clip in dump.clips:
        for path in clip.files[:PROBES_PER_CLIP]:
            try:
                probes.append(read_frame(path))
                break
            except ClipError as error:
                fault = error
        if len(probes) == PROBES:
            break
    if not probes:
        raise ClipError(
            f"no clip of the dump is whole and opens: {fault.happened if fault else dump.failures[0].reason}",
            expected="what Orion-Lite's collector writes",
            repair="collect the clips again",
        )
    return probes


def _manifest(conversion: FrameConversion, parts: TeacherParts | None) -> Manifest:
    """Return the manifest; only a checkpoint identifies the teacher that made the dump."""
    teacher = TeacherIdentity(
        name="orion-lite-import", weights="unknown" if parts is None else parts.weights, precision="unknown"
    )
    assets = {} if parts is None else parts.assets
    return new_manifest(conversion.features, teacher, BENCH2DRIVE, assets, libraries=("numpy", "zarr"))


def _info(clip: DumpedClip) -> ClipInfo:
    return ClipInfo(name=clip.name, frames=len(clip.files), split=clip.split, tags=clip.parts.tags)


def _candidate(clip: DumpedClip) -> Candidate:
    return Candidate(clip.name, len(clip.files), clip.split, clip.parts.tags, clip.fingerprint)


def _import_clip(
    clip: DumpedClip, stored: ClipWriter, conversion: FrameConversion, pool: ThreadPoolExecutor
) -> float:
    """Write one clip; return the largest error of its frames. After a fault the rest is still checked."""
    begun = time.perf_counter()
    faults: dict[int, str] = {}
    largest = 0.0

    def load(number: int) -> Frame | ClipError:
        try:
            return conversion.load(number, clip.files[number])
        except ClipError as error:
            return error

    try:
        for begin in range(0, len(clip.files), BLOCK_FRAMES):
            numbers = range(begin, min(begin + BLOCK_FRAMES, len(clip.files)))
            frames: dict[int, Frame] = {}
            for number, loaded in zip(numbers, pool.map(load, numbers), strict=True):
                if isinstance(loaded, ClipError):
                    faults[number] = loaded.happened
                else:
                    frames[number] = loaded
            if not frames:
                continue
            values, errors = conversion.finish(list(frames.values()))
            for number, error in zip(frames, errors.tolist(), strict=True):
                if error <= TOLERANCE:
                    largest = max(largest, error)
                else:
                    faults[number] = f"its tokens are {error:.1e} from any queries, more than {TOLERANCE:g}"
            if not faults:
                stored.append(values)
        if faults:
            raise _faulty(len(clip.files), faults)
        stored.commit(wall_s=time.perf_counter() - begun)
    finally:
        stored.abort()  # whatever was not committed
    return largest


def _faulty(frames: int, faults: dict[int, str]) -> ClipError:
    named = [f"frame {number}: {what}" for number, what in sorted(faults.items())[:FAULTS_SHOWN]]
    more = [f"and {len(faults) - FAULTS_SHOWN} more"] * (len(faults) > FAULTS_SHOWN)
    return ClipError(
        f"{len(faults)} of {frames} frames cannot be used: " + "; ".join(named + more),
        expected="every frame of a clip, whole, and made by one teacher",
        repair="collect these frames again, then import again",
    )

"""Dumps by Orion-Lite's collector: one ``.npz`` a frame (spec: Orion-Lite, section 1.4).

Files are not trusted: sizes are checked before anything is inflated, and nothing is unpickled. The collector
writes straight to the final name, so a file that exists may still be half a file.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import math
import re
import struct
import threading
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cache_schema.errors import ClipError, LeftOut
from pipeline.bench2drive.clips import ClipName, current_name, looks_like_clip
from pipeline.bench2drive.splits import bench2drive_validation, split_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cache_schema.format.ledger import Split

TOKENS = "visual_queries"
"""(N, D): scene, history, ego and map tokens at full width."""
KEYS = (
    TOKENS,
    "planning_token",
    "ego_fut_trajs",
    "ego_fut_masks",
    "ego_fut_cmd",
    "lane_scores",
    "lane_preds",
    "agent_preds",
    "agent_score_preds",
    "agent_fut_preds",
    "agent_fut_cls_preds",
)
"""Arrays of a frame. All have unit dimensions in front or in between, which differ."""
MEMBER_BYTES = 64 * 2**20
"""Limit of one inflated array. The largest of a valid frame takes 4.3 MB, twice that in float32."""
MEMBERS = 64
"""Limit of arrays in one file."""

_FILE_NAME = re.compile(r"data_(.+)_([0-9]+)(?:\.npy)?\.npz")
"""The folder of the clip and its name, joined by underscores, and the number of the frame."""
_UNREADABLE = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, struct.error)
"""Raised by zipfile and numpy for files that are damaged, encrypted or something else."""

_PARSING = threading.Lock()
"""Held while NumPy parses a header as Python: 3.11 counts the recursion of all threads as one, and fails."""


@dataclass(frozen=True)
class DumpedClip:
    """The files of one clip."""

    name: str
    split: Split
    files: tuple[Path, ...]
    """Of frames 0, 1, 2, ..."""

    @property
    def parts(self) -> ClipName:
        """Scenario, town, route and weather."""
        return ClipName.parse(self.name)

    def fingerprint(self) -> str:
        """Return a digest of the sizes of all files, wherever they lie."""
        return hashlib.sha256(str([file.stat().st_size for file in self.files]).encode()).hexdigest()


@dataclass(frozen=True)
class Dump:
    """The clips that were found in a folder."""

    clips: tuple[DumpedClip, ...]
    """Sorted by name."""
    failures: tuple[LeftOut, ...]
    """Clips that are not whole, and files whose name does not parse."""


def find_dump(folder: Path) -> Dump:
    """Find the frames in ``folder`` itself, in ``train/`` and in ``val/``.

    Clips of the folder itself are split as Bench2Drive is.

    Raises:
        ClipError: There are none.
    """
    files: dict[str, dict[int, list[tuple[Split, Path]]]] = {}
    failures = []
    validation = bench2drive_validation()
    for path, split in _npz_files(folder):
        match = _FILE_NAME.fullmatch(path.name)
        clip = None if match is None else _clip_of(match[1])
        if match is None or clip is None:
            reason = "the name is not data_<folder>_<clip>_<frame>.npz of one clip beyond doubt"
            failures.append(LeftOut(path.name, reason, "give the file its full name, or move it away"))
            continue
        frame = int(match[2])
        side = split or split_of(clip, validation)
        files.setdefault(clip, {}).setdefault(frame, []).append((side, path))
    clips = []
    for name, frames in sorted(files.items()):
        fault = _fault(frames)
        if fault is None:
            in_order = [frames[number][0] for number in sorted(frames)]
            clips.append(DumpedClip(name, in_order[0][0], tuple(path for _, path in in_order)))
        else:
            failures.append(LeftOut(name, fault, "collect the clip again"))
    failures += _unexpected(folder)
    if not clips and not failures:
        raise ClipError(
            f"there are no frames in {folder}",
            expected="files like data_v1_Accident_Town03_Route1_Weather0_12.npz there, or in train/ and val/",
            repair="give the folder that the collector wrote to",
        )
    return Dump(tuple(clips), tuple(failures))


def read_frame(path: Path) -> dict[str, np.ndarray]:
    """Read the known arrays of one frame, as far as they exist, without their unit dimensions.

    Raises:
        ClipError: The file is not a whole archive of plain arrays.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            if len(members) > MEMBERS:
                raise ValueError(f"it lists {len(members)} arrays, more than {MEMBERS}")
            known = {key: members[f"{key}.npy"] for key in KEYS if f"{key}.npy" in members}
            return {key: _read_member(archive, member) for key, member in known.items()}
    except _UNREADABLE as error:
        raise ClipError(
            f"{path.name} cannot be read: {error}",
            expected="a whole .npz file of plain numbers",
            repair="collect this frame again",
        ) from error


def _npz_files(folder: Path) -> Iterator[tuple[Path, Split | None]]:
    folders: tuple[tuple[Path, Split | None], ...] = (
        (folder, None),
        (folder / "train", "train"),
        (folder / "val", "val"),
    )
    for inside, split in folders:
        if inside.is_dir():
            yield from ((path, split) for path in sorted(inside.iterdir()) if path.suffix == ".npz")


def _clip_of(words: str) -> str | None:
    """Return the clip of a file's name without its number; None where it may be another clip than it seems.

    The collector joins folder and clip by underscores, so that a scenario of two words looks like a folder
    and a scenario. A capital letter begins a word of a scenario; ``v1`` is the folder of the published data.
    """
    published = current_name(words.removeprefix("v1_"))
    if looks_like_clip(published):
        return published
    parts = words.split("_")
    before, rest = parts[:-3], parts[-3:]  # town, route and weather
    scenario = list(itertools.takewhile(lambda word: word[:1].isupper(), reversed(before)))
    name = current_name("_".join((*reversed(scenario), *rest)))
    return name if looks_like_clip(name) else None


def _unexpected(folder: Path) -> Iterator[LeftOut]:
    """Name the folders of a dump that hold frames and are not looked into."""
    for inside in sorted(folder.iterdir()) if folder.is_dir() else ():
        for below in (inside, *sorted(inside.iterdir())) if inside.is_dir() else ():
            if below.is_dir() and not (below == inside and inside.name in ("train", "val")):
                count = sum(path.suffix == ".npz" for path in below.iterdir())
                if count:
                    place = below.relative_to(folder).as_posix()
                    reason = f"the folder holds {count} frames, and is not looked into"
                    yield LeftOut(place, reason, "move them to the dump itself, to train/ or to val/")


def _fault(frames: dict[int, list[tuple[Split, Path]]]) -> str | None:
    """Return why these are not the frames of one clip; None if they are."""
    if len({split for found in frames.values() for split, _ in found}) > 1:
        return "it has frames in train/ and in val/"
    twice = sorted(number for number, found in frames.items() if len(found) > 1)
    if twice:
        names = " and ".join(path.name for _, path in frames[twice[0]])
        return f"{len(twice)} frames are there twice, such as {names}"
    lacking = max(frames) + 1 - len(frames)
    if lacking:
        first = next(number for number in itertools.count() if number not in frames)
        return f"it lacks {lacking} frames, the first {first}"
    return None


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{member.filename} is compressed by method {member.compress_type}")
    if member.file_size > MEMBER_BYTES:
        raise ValueError(f"{member.filename} inflates to {member.file_size} bytes, more than {MEMBER_BYTES}")
    with archive.open(member) as file:
        # No more is inflated than was announced, and the last byte of it triggers the check of the CRC.
        content = file.read(member.file_size)
    header = io.BytesIO(content)
    version = np.lib.format.read_magic(header)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{member.filename} is of .npy version {version}")
    with _PARSING:
        if version == (1, 0):
            shape, in_columns, dtype = np.lib.format.read_array_header_1_0(header)
        else:
            shape, in_columns, dtype = np.lib.format.read_array_header_2_0(header)
    begin = header.tell()
    if dtype.kind not in "biuf" or min(shape, default=1) < 1:
        raise ValueError(f"{member.filename} holds {dtype}{shape}, not numbers")
    if math.prod(shape) * dtype.itemsize != len(content) - begin:
        raise ValueError(f"{member.filename} declares {dtype}{shape}, but has {len(content) - begin} bytes")
    values = np.frombuffer(content, dtype, offset=begin)
    return values.reshape(shape, order="F" if in_columns else "C").squeeze()

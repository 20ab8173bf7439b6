"""Raw clips on disk: their names, frames and files (spec: Bench2Drive, section 1.1)."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from cache_schema.errors import ClipError
from pipeline.bench2drive.geometry import CAMERAS
from pipeline.source import absolute

if TYPE_CHECKING:
    from pathlib import Path

FRAME_RATE_HZ = 10.0
OLD_SCENARIOS = {"T_Junction": "TJunction"}
"""Scenarios as the first release of Bench2Drive spelt them -> as they are called now."""
ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")
"""Endings of the archives in which clips are published."""

_CLIP_NAME = re.compile(r"([A-Za-z0-9]+)_(Town[0-9]{2}(?:HD)?)_Route([0-9]+)_Weather([0-9]+)")
_ANNOTATION_NAME = re.compile(r"([0-9]+)\.json(?:\.gz)?")


TAGS = ("scenario", "town", "route", "weather")
"""Tags of a clip: the parts of its name."""


@dataclass(frozen=True)
class ClipName:
    """The parts of a clip's folder name, such as ``Accident_Town03_Route156_Weather0``."""

    scenario: str
    town: str
    route: int
    weather: int

    @property
    def tags(self) -> dict[str, str]:
        """The parts as tags of a latent dataset: ``TAGS``."""
        return {
            "scenario": self.scenario,
            "town": self.town,
            "route": str(self.route),
            "weather": str(self.weather),
        }

    @classmethod
    def parse(cls, name: str) -> ClipName:
        """Take a folder name apart.

        Raises:
            ClipError: The name is not of Bench2Drive's form.
        """
        match = _CLIP_NAME.fullmatch(name)
        if match is None:
            now = current_name(name)
            raise ClipError(
                f"the clip name {name!r} does not parse",
                expected="<Scenario>_<Town>_Route<id>_Weather<id>, as in Accident_Town03_Route156_Weather0",
                repair=f"call it {now}, as Bench2Drive does now"
                if looks_like_clip(now)
                else "give the folder its full name, or move it out of the data",
            )
        scenario, town, route, weather = match.groups()
        return cls(scenario, town, int(route), int(weather))


def current_name(name: str) -> str:
    """Return a clip's name as it is spelt now; a name of no known old spelling stays as it is."""
    scenario, town, rest = name.partition("_Town")
    return OLD_SCENARIOS.get(scenario, scenario) + town + rest


def looks_like_clip(name: str) -> bool:
    """Return whether a name is a clip's, as it is spelt now."""
    return _CLIP_NAME.fullmatch(name) is not None


def without_archive_suffix(name: str) -> str:
    """Return a file's name without the ending of an archive, if it has one."""
    return next((name.removesuffix(ending) for ending in ARCHIVES if name.endswith(ending)), name)


@dataclass(frozen=True)
class RawClip:
    """One clip folder whose name is known to parse. Its content is read when it is asked for."""

    path: Path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @cached_property
    def parts(self) -> ClipName:
        """Scenario, town, route and weather."""
        return ClipName.parse(self.name)

    @cached_property
    def frames(self) -> tuple[int, ...]:
        """Frame numbers 0, 1, 2, ... 0.1 s apart.

        Raises:
            ClipError: There are none, or some are missing: time is counted in frames.
        """
        frames = tuple(sorted(self._annotations))
        missing = sorted(set(range(frames[-1] + 1)).difference(frames)) if frames else [0]
        if missing:
            raise ClipError(
                f"the clip {self.name} lacks {len(missing)} annotated frames, the first {missing[0]:05d}"
                if frames
                else f"the clip {self.name} has no annotated frames",
                expected=f"every frame from 00000 on as a file of {self.path / 'anno'}",
                repair="unpack the clip's archive again, or leave the clip out",
            )
        return frames

    @cached_property
    def _annotations(self) -> dict[int, Path]:
        files: dict[int, Path] = {}
        # Sorted, so that of NNNNN.json and NNNNN.json.gz the archive's own (gzipped) wins.
        for file in sorted((self.path / "anno").glob("*.json*")):
            if match := _ANNOTATION_NAME.fullmatch(file.name):
                other = files.setdefault(int(match[1]), file)
                if other.name.partition(".")[0] != match[1]:
                    raise ClipError(
                        f"the clip {self.name} annotates a frame twice: {other.name} and {file.name}",
                        expected="one annotation a frame, its number in five digits",
                        repair="unpack the clip's archive again, or leave the clip out",
                    )
                files[int(match[1])] = file
        return files

    def annotation_path(self, frame: int) -> Path:
        """File of a frame that is in ``frames``."""
        return self._annotations[frame]

    def image_path(self, camera: str, frame: int) -> Path:
        """JPEG of a camera (a key of ``geometry.CAMERAS``) at a frame."""
        return self.path / "camera" / camera.replace("CAM", "rgb").lower() / f"{frame:05d}.jpg"

    def fingerprint(self) -> str:
        """Return a digest of the names and sizes of all annotations and images, wherever the clip lies.

        No file is opened. A missing file counts as such; files that are neither are passed over.
        """
        digest = hashlib.sha256()
        used = [self._annotations[frame] for frame in self.frames]
        used += [self.image_path(camera, frame) for camera in CAMERAS for frame in self.frames]
        sizes: dict[Path, dict[str, int]] = {}
        for file in used:
            if file.parent not in sizes:
                sizes[file.parent] = _sizes(file.parent)
            place = file.relative_to(self.path).as_posix()
            digest.update(f"{place} {sizes[file.parent].get(file.name)}\n".encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class Discovery:
    """The clips that were found under a data root."""

    clips: tuple[RawClip, ...]
    """Sorted by name."""
    rejected: dict[str, ClipError]
    """What looks like a clip but cannot be one, or lies where clips are not looked for: place -> why."""


def clips_folder(root: Path) -> Path:
    """Return the folder that holds the clips: ``root/v1`` where there is one, else ``root``."""
    return root / "v1" if (root / "v1").is_dir() else root


def folders_around(root: Path) -> tuple[Path, ...]:
    """Return the folders in which a data root's own files may lie, such as its split.

    They are the same for ``ROOT`` and ``ROOT/v1``: first as the path is written, then as links lead.
    """
    folder = clips_folder(absolute(root))
    found = [path.parent if path.name == "v1" else path for path in (folder, folder.resolve())]
    return tuple(dict.fromkeys(found))


def find_clips(root: Path) -> Discovery:
    """Find the clips of a data root, which holds them directly or in ``v1/``.

    A folder is a clip if it has ``anno/`` or a clip's name; others (``maps``, ``splits``) are skipped. Clips
    in other folders and archives of clips that are not there are rejected, so that none is lost unseen.

    Raises:
        ClipError: There is no such folder, or no clip in it.
    """
    folder = clips_folder(root)
    clips, rejected = [], {}
    for path in _visible(folder):
        if (path / "anno").is_dir():
            try:
                ClipName.parse(path.name)
            except ClipError as error:
                rejected[path.name] = error
            else:
                clips.append(RawClip(path))
        elif fault := _fault(path):
            rejected[path.name] = fault
    for path in _visible(root) if folder != root else ():
        if path.name == "v1":
            continue
        beside = looks_like_clip(current_name(path.name)) or (path / "anno").is_dir()
        if fault := _beside(path, folder) if beside else _fault(path, folder):
            rejected[f"../{path.name}"] = fault
    if not clips and not rejected:
        raise ClipError(
            f"there are no clips in {folder}" if folder.is_dir() else f"the folder {folder} does not exist",
            expected="folders like Accident_Town03_Route156_Weather0 with anno/ and camera/, there or in v1/",
            repair="give the folder of the unpacked clips; `teachonce demo-data ROOT` writes synthetic ones",
        )
    return Discovery(tuple(clips), rejected)


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name[0] != ".") if folder.is_dir() else []


def _fault(path: Path, clips: Path | None = None) -> ClipError | None:
    """Return why what looks like a clip, or holds some, is none; None for something else.

    Args:
        path: A file or folder without ``anno/``.
        clips: The folder of the clips, where the path does not lie in it.
    """
    unpacked = without_archive_suffix(path.name)
    if unpacked != path.name and looks_like_clip(current_name(unpacked)) and not path.is_dir():
        if ((clips or path.parent) / unpacked).is_dir():
            return None
        return ClipError(
            f"the archive {path.name} is not unpacked",
            expected=f"a folder {unpacked} with anno/ and camera/",
            repair="unpack it there, or move it out of the data",
        )
    if looks_like_clip(current_name(path.name)) or (path / "camera").is_dir():
        return ClipError(
            f"the clip {path.name} has no anno/" if path.is_dir() else f"{path.name} leads to no folder",
            expected="a folder of annotations in every clip",
            repair="unpack the clip's archive again, or move the folder out of the data",
        )
    inside = [name for folder in (path, path / "v1") for name in _names(folder) if looks_like_clip(name)]
    if not inside:
        return None
    return ClipError(
        f"the folder {path.name} holds {len(inside)} clips, the first {min(inside)}",
        expected=f"clips as folders of {clips or path.parent} itself",
        repair="move them there, or out of the data",
    )


def _beside(path: Path, folder: Path) -> ClipError:
    twice = " for the second time" if (folder / path.name).is_dir() else ""
    return ClipError(
        f"the clip {path.name} lies beside v1/{twice}",
        expected=f"every clip once, in {folder}",
        repair="move it out of the data" if twice else "move it into v1/, or out of the data",
    )


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # a file, or another user's folder
        return []


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of the files of a folder by their names; none where there is no folder."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    except FileNotFoundError:
        return {}

"""Raw clips on disk: their names, frames and files (spec: Bench2Drive, section 1.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from cache_schema.errors import ClipError

if TYPE_CHECKING:
    from pathlib import Path

FRAME_RATE_HZ = 10.0

_CLIP_NAME = re.compile(r"([A-Za-z0-9]+)_(Town\d{2}(?:HD)?)_Route(\d+)_Weather(\d+)")
_ANNOTATION_NAME = re.compile(r"(\d+)\.json(?:\.gz)?")


@dataclass(frozen=True)
class ClipName:
    """The parts of a clip's folder name, such as ``Accident_Town03_Route156_Weather0``."""

    scenario: str
    town: str
    route: int
    weather: int

    @property
    def tags(self) -> dict[str, str]:
        """The parts as tags of a latent dataset."""
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
            raise ClipError(
                f"the clip name {name!r} does not parse",
                expected="<Scenario>_<Town>_Route<id>_Weather<id>, as in Accident_Town03_Route156_Weather0",
                repair="give the folder its full name, or move it out of the data",
            )
        scenario, town, route, weather = match.groups()
        return cls(scenario, town, int(route), int(weather))


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
        files = {}
        # Sorted, so that of NNNNN.json and NNNNN.json.gz the archive's own (gzipped) wins.
        for file in sorted((self.path / "anno").glob("*.json*")):
            if match := _ANNOTATION_NAME.fullmatch(file.name):
                files[int(match[1])] = file
        return files

    def annotation_path(self, frame: int) -> Path:
        """File of a frame that is in ``frames``."""
        return self._annotations[frame]

    def image_path(self, camera: str, frame: int) -> Path:
        """JPEG of a camera (a key of ``geometry.CAMERAS``) at a frame."""
        return self.path / "camera" / camera.replace("CAM", "rgb").lower() / f"{frame:05d}.jpg"


@dataclass(frozen=True)
class Discovery:
    """The clips that were found under a data root."""

    clips: tuple[RawClip, ...]
    """Sorted by name."""
    rejected: dict[str, ClipError]
    """Folders that look like clips but cannot be: name -> why."""


def clips_folder(root: Path) -> Path:
    """Return the folder that holds the clips: ``root/v1`` where there is one, else ``root``."""
    return root / "v1" if (root / "v1").is_dir() else root


def find_clips(root: Path) -> Discovery:
    """Find the clips of a data root, which holds them directly or in ``v1/``.

    A folder is a clip if it has ``anno/`` or a clip's name; others (``maps``, ``splits``) are skipped.

    Raises:
        ClipError: There is no such folder, or no clip in it.
    """
    folder = clips_folder(root)
    clips, rejected = [], {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        has_annotations = (path / "anno").is_dir()
        if has_annotations:
            try:
                ClipName.parse(path.name)
            except ClipError as error:
                rejected[path.name] = error
            else:
                clips.append(RawClip(path))
        elif path.is_dir() and _CLIP_NAME.fullmatch(path.name):
            rejected[path.name] = ClipError(
                f"the clip {path.name} has no anno/",
                expected="a folder of annotations in every clip",
                repair="unpack the clip's archive again, or move the folder out of the data",
            )
    if not clips and not rejected:
        raise ClipError(
            f"there are no clips in {folder}" if folder.is_dir() else f"the folder {folder} does not exist",
            expected="folders like Accident_Town03_Route156_Weather0 with anno/ and camera/, there or in v1/",
            repair="give the folder of the unpacked clips; `teachonce demo-data ROOT` writes synthetic ones",
        )
    return Discovery(tuple(clips), rejected)

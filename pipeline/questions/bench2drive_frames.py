"""Folders with a JSON file for every frame of Bench2Drive clips whose images lie elsewhere."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from cache_schema.errors import ClipError
from pipeline.bench2drive.clips import RawClip, clips_folder
from pipeline.bench2drive.geometry import CAMERAS

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

IMAGE_FOLDERS = ("bench2drive", "Bench2Drive", ".")
"""Where the clips are looked for in a data root, and in the folders around it."""
LEVELS = 4
"""How many folders are looked through, from the data root upwards."""

_FRAME = re.compile(r"([0-9]{1,9})\.json")


def folders_of(root: Path) -> dict[str, Path]:
    """Return the folders in a folder that hold files such as ``00012.json``, by name, sorted."""
    folders = sorted(root.iterdir()) if root.is_dir() else []
    return {
        folder.name: folder
        for folder in folders
        if folder.is_dir() and any(_FRAME.fullmatch(file.name) for file in folder.iterdir())
    }


def frames_of(folder: Path) -> dict[int, Path]:
    """Return the files of a clip's frames, sorted by number.

    Raises:
        ClipError: A frame has two files.
    """
    frames: dict[int, Path] = {}
    for file in sorted(folder.iterdir()):
        if match := _FRAME.fullmatch(file.name):
            other = frames.setdefault(int(match[1]), file)
            if other != file:
                raise ClipError(
                    f"a frame of {folder} has two files: {other.name} and {file.name}",
                    expected="one file a frame",
                    repair="fetch the folder again, or remove one of the files",
                )
    return dict(sorted(frames.items()))


def images_folder(root: Path, clips: Collection[str]) -> Path:
    """Return the folder of the Bench2Drive clips that the questions in a data root are about.

    It is the first one that has any of the clips, of ``bench2drive/``, ``Bench2Drive/`` and ``v1/`` in them
    or beside them, in the data root and then in the folders around it.

    Raises:
        ClipError: There is none.
    """
    around = (root, *root.parents)[:LEVELS]
    folders = [clips_folder(up / name) for up in around for name in IMAGE_FOLDERS]
    for folder in folders:
        if any((folder / clip / "camera").is_dir() for clip in clips):
            return folder
    raise ClipError(
        f"the images that the questions in {root} are about are not there",
        expected=f"Bench2Drive's clips in one of {', '.join(map(str, folders[:3]))}, or as far up",
        repair=f"link the folder of the unpacked clips there: ln -s CLIPS {root / IMAGE_FOLDERS[0]}",
    )


def images_of(folder: Path, clip: str, frame: int) -> tuple[str, ...]:
    """Return the paths of a frame's six images, relative to the folder of the clips."""
    raw = RawClip(folder / clip)
    return tuple(raw.image_path(camera, frame).relative_to(folder).as_posix() for camera in CAMERAS)


def check_images(folder: Path, clip: str) -> None:
    """Check that the folder of the clips has a clip.

    Raises:
        ClipError: It has not.
    """
    if not (folder / clip / "camera").is_dir():
        raise ClipError(
            f"the images of {clip} are not there",
            expected=f"a folder {folder / clip} with camera/",
            repair="unpack the clip there, or leave out the questions about it",
        )

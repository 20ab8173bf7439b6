"""DriveLM's questions about nuScenes, as published (spec: Drive-KD, section 9.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache_schema.errors import ClipError
from cache_schema.format.manifest import DataIdentity
from cache_schema.vocabulary.attention import QUESTIONS
from pipeline.questions.documents import is_said, only_json, read_json
from pipeline.questions.entries import Entry, Reading, selection
from pipeline.questions.graphs import pairs_of
from pipeline.questions.scenes import time_of
from pipeline.source import absolute

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pipeline.source import Selection, SplitChoice


class DriveLmQuestions:
    """DriveLM-nuScenes: a JSON file such as ``v1_1_train_nus.json``; implements ``Source``.

    Paths of images are relative to the file's folder. Coordinates in texts stay as they are written.

    Args:
        root: The file, or a folder with it alone.

    Raises:
        ClipError: There is no JSON file.
        RequestError: There are several.
    """

    kind = "questions"
    identity = DataIdentity(
        name="DriveLM-nuScenes",
        licence="CC BY-NC-SA 4.0; its images: nuScenes' terms of use",
        frame_rate_hz=2.0,
    )
    ground_truth = QUESTIONS
    tags = ()

    def __init__(self, root: Path) -> None:
        self.file = only_json(absolute(root))

    def select(self, split: SplitChoice = "all") -> Selection:
        """Return the scenes of a split, sorted by token. Pairs that cannot be used are counted in notes.

        Raises:
            ClipError: The file cannot be read, or holds nothing that can be used.
            RequestError: There is no scene of this split, or a kind of question is unknown.
        """
        scenes = read_json(self.file)
        if not isinstance(scenes, dict):
            raise _misshapen(str(self.file))
        reading = Reading(self.file, self.file.parent)
        for scene, content in scenes.items():
            reading.add_scene(scene, self._read(scene, content, reading))
        return selection(self, reading, split)

    def _read(self, scene: str, content: object, reading: Reading) -> Iterator[Entry]:
        frames = content.get("key_frames") if isinstance(content, dict) else None
        if not isinstance(frames, dict):
            raise _misshapen(f"scene {scene} of {self.file}")
        for token, frame in frames.items():
            where = f"key frame {token} of scene {scene}"
            paths = frame.get("image_paths") if isinstance(frame, dict) else None
            images = tuple(paths.values()) if isinstance(paths, dict) else ()
            if not images or not all(is_said(image) for image in images):
                raise _misshapen(f"{where} in {self.file}")
            common = Entry(
                where=where,
                scene=scene,
                images=images,
                time_us=time_of(images),
            )
            yield from pairs_of(frame, common, reading, self.file)


def _misshapen(what: str) -> ClipError:
    return ClipError(
        f"{what} is not of DriveLM's form",
        expected='{scene: {"key_frames": {frame: {"QA": {...}, "image_paths": {camera: path, ...}}}}}',
        repair="fetch the file again, or choose another --source",
    )

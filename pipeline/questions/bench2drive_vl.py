"""Bench2Drive-VL's questions about Bench2Drive, made by rules (spec: Drive-KD, section 9.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache_schema.errors import ClipError
from cache_schema.format.manifest import DataIdentity
from cache_schema.vocabulary.attention import QUESTIONS
from pipeline.bench2drive.clips import FRAME_RATE_HZ, TAGS
from pipeline.bench2drive.splits import split_of, validation_clips
from pipeline.questions.bench2drive_frames import (
    check_images,
    folders_of,
    frames_of,
    images_folder,
    images_of,
)
from pipeline.questions.documents import read_json
from pipeline.questions.entries import Entry, Reading, selection
from pipeline.questions.graphs import pairs_of
from pipeline.source import absolute

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cache_schema.format.ledger import Split
    from pipeline.source import Selection, SplitChoice


class Bench2DriveVlQuestions:
    """Bench2Drive-VL-base: ``<clip>/<frame>.json``; implements ``Source``.

    The images are those of Bench2Drive, see ``bench2drive_frames.images_folder``: six to a question, in the
    order of ``geometry.CAMERAS``. The paths in the files are those of the machine that made them. Sides of
    the split are Bench2Drive's, or those of the clips' own split file.

    Args:
        root: Folder of the clips' folders.
    """

    kind = "questions"
    identity = DataIdentity(name="Bench2Drive-VL-base", licence="CC BY-NC-ND", frame_rate_hz=FRAME_RATE_HZ)
    ground_truth = QUESTIONS
    tags = TAGS

    def __init__(self, root: Path) -> None:
        self.root = absolute(root)

    def select(self, split: SplitChoice = "all") -> Selection:
        """Return the clips of a split, sorted by name. Pairs that cannot be used are counted in notes.

        Raises:
            ClipError: There is no clip, or none of their images.
            RequestError: There is none of this split, or a kind of question is unknown.
        """
        clips = folders_of(self.root)
        if not clips:
            raise ClipError(
                f"there are no questions in {self.root}",
                expected="files like Accident_Town03_Route156_Weather0/00012.json there",
                repair="give the folder of the unpacked questions",
            )
        images = images_folder(self.root, clips)
        reading, validation = Reading(self.root, images), validation_clips(images)
        for clip, folder in clips.items():
            reading.add_scene(clip, self._read(folder, images, split_of(clip, validation), reading))
        return selection(self, reading, split)

    def _read(self, folder: Path, images: Path, side: Split, reading: Reading) -> Iterator[Entry]:
        check_images(images, folder.name)
        for frame, file in frames_of(folder).items():
            common = Entry(
                where=f"frame {frame} of {folder.name}",
                scene=folder.name,
                images=images_of(images, folder.name, frame),
                frame=frame,
                split=side,
            )
            yield from pairs_of(read_json(file), common, reading, file)

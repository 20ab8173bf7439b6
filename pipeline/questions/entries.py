"""What a source has read, sorted into clips: scenes, frames, sides of the split, and what is left out."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cache_schema.errors import ClipError, LeftOut, RequestError
from pipeline.questions.clips import Question, QuestionClip
from pipeline.questions.sample import PLACEHOLDER
from pipeline.questions.scenes import ONE_IN, clip_name, side_of, tags_of
from pipeline.source import Selection

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cache_schema.format.ledger import Split
    from pipeline.source import Source, SplitChoice


@dataclass(frozen=True, slots=True)
class Entry:
    """One question as a data set has it."""

    where: str
    """What to call it in a message."""
    scene: str
    images: tuple[str, ...]
    """Paths as they are written."""
    question: str = ""
    answer: str = ""
    capability: str = ""
    question_id: int = 0
    frame: int | None = None
    """Number of the frame, where it is known."""
    time_us: int | None = None
    """Time of the frame, where that is known instead."""
    split: Split | None = None
    """Side of the scene, where the data set says so."""


@dataclass
class Reading:
    """What a source has read."""

    place: Path
    """File or folder that was read, for messages."""
    folder: Path
    """Where relative paths of images begin."""
    entries: list[Entry] = field(default_factory=list)
    failed: list[LeftOut] = field(default_factory=list)
    counted: dict[str, list[str]] = field(default_factory=dict)
    """What the user should know -> which entries it is about."""

    def count(self, what: str, where: str) -> None:
        """Count an entry that is left out, or changed."""
        self.counted.setdefault(what, []).append(where)

    def add_scene(self, scene: str, entries: Iterator[Entry]) -> None:
        """Add the entries of a scene, or note why it cannot be used."""
        try:
            found = list(entries)
        except ClipError as error:
            self.failed.append(LeftOut.because(clip_name(scene), error))
        else:
            for entry in found:
                self.add(entry)

    def add(self, entry: Entry) -> None:
        """Add an entry, with no more images than its question has places for, if it has any."""
        places = entry.question.count(PLACEHOLDER)
        if 0 < places < len(entry.images):
            self.count(f"images beyond the last {PLACEHOLDER} of a question are dropped", entry.where)
            entry = replace(entry, images=entry.images[:places])
        self.entries.append(entry)

    def notes(self) -> list[str]:
        """Return a sentence for everything that was counted."""
        return [
            f"{self.place}: {what}: {len(where)}, the first is {where[0]}"
            for what, where in self.counted.items()
        ]


def selection(source: Source, reading: Reading, split: SplitChoice) -> Selection:
    """Return the clips of a split, sorted by name.

    Raises:
        ClipError: There is no question at all.
        RequestError: There is none of this split; or a scene, or an image, is on both sides of it.
    """
    scenes: dict[str, list[Entry]] = {}
    for entry in reading.entries:
        scenes.setdefault(entry.scene, []).append(entry)
    _count_repetitions(reading)
    if not scenes and not reading.failed:
        raise ClipError(
            "; ".join((f"there are no questions to use in {reading.place}", *reading.notes())),
            expected="questions with an answer and images",
            repair="give a file of the form that the source reads",
        )
    given = {scene: _given_side(scene, entries) for scene, entries in scenes.items()}
    sides = {scene: side or side_of(scene) for scene, side in given.items()}
    _refuse_images_on_both_sides(scenes, sides)
    clips = [
        QuestionClip(clip_name(scene), sides[scene], index, scene, reading.folder, _in_order(scenes[scene]))
        for index, scene in enumerate(sorted(scenes, key=clip_name))
    ]
    chosen = tuple(clip for clip in clips if split in ("all", clip.split))
    if not chosen and not reading.failed:
        raise RequestError(
            f"none of the {len(clips)} scenes of {reading.place} is of the split {split!r}",
            expected="at least one scene",
            repair="choose another split, or say of each entry on which side it is, by its key 'split'",
        )
    ruled = [sides[scene] for scene, side in given.items() if side is None and not tags_of(scene)]
    rule = (
        f"{reading.place} does not say on which side {len(ruled)} scenes are: one in {ONE_IN} "
        f"is for validation, by the sha256 of its name ({ruled.count('val')} here)"
    )
    return Selection(source, chosen, tuple(reading.failed), (*reading.notes(), *([rule] if ruled else [])))


def _given_side(scene: str, entries: list[Entry]) -> Split | None:
    by_side = {entry.split: entry.where for entry in reversed(entries) if entry.split}
    if len(by_side) > 1:
        raise RequestError(
            f"the scene {scene} is for training by {by_side['train']}, for validation by {by_side['val']}",
            expected="every scene on one side of the split",
            repair="give all entries of the scene the same 'split', or separate scenes by the key 'scene'",
        )
    return next(iter(by_side), None)


def _refuse_images_on_both_sides(scenes: dict[str, list[Entry]], sides: dict[str, Split]) -> None:
    seen: dict[str, Entry] = {}
    for entries in scenes.values():
        views: dict[tuple[str, ...], Entry] = {}
        for entry in entries:
            views.setdefault(entry.images, entry)
        for entry in views.values():
            for written in entry.images:
                other = seen.setdefault(posixpath.normpath(written), entry)
                if sides[other.scene] != sides[entry.scene]:
                    raise RequestError(
                        f"the image {written} is on both sides of the split: {other.where} asks about it in "
                        f"scene {other.scene} ({sides[other.scene]}), and {entry.where} in scene "
                        f"{entry.scene} ({sides[entry.scene]})",
                        expected="no image both for training and for validation",
                        repair="give both entries the same 'scene' or the same 'split'",
                    )


def _count_repetitions(reading: Reading) -> None:
    seen = set()
    for entry in reading.entries:
        content = (entry.scene, entry.frame, entry.images, entry.question, entry.answer)
        if content in seen:
            reading.count("entries that repeat another one are kept", entry.where)
        seen.add(content)


def _in_order(entries: list[Entry]) -> tuple[Question, ...]:
    """Sort by frame; within it, the images come in the order in which the file first names them."""
    # Where frames have no numbers, their times count; where they have none, each set of images is a frame.
    unnumbered = sorted(
        (entry for entry in entries if entry.frame is None),
        key=lambda entry: (entry.time_us is None, entry.time_us or 0),
    )
    numbers: dict[object, int] = {}
    for entry in unnumbered:
        numbers.setdefault(entry.time_us or entry.images, len(numbers))
    views: dict[tuple[str, ...], int] = {}
    for entry in entries:
        views.setdefault(entry.images, len(views))

    def frame(entry: Entry) -> int:
        return numbers[entry.time_us or entry.images] if entry.frame is None else entry.frame

    return tuple(
        Question(
            frame(entry), entry.question_id, entry.capability, entry.question, entry.answer, entry.images
        )
        for entry in sorted(entries, key=lambda entry: (frame(entry), views[entry.images], entry.question_id))
    )

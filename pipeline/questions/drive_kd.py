"""Questions in Drive-KD's own JSON (spec: Drive-KD, section 3), about images anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cache_schema.errors import ClipError, RequestError
from cache_schema.format.manifest import DataIdentity
from cache_schema.vocabulary.attention import QUESTIONS
from pipeline.bench2drive.clips import TAGS
from pipeline.questions.capabilities import capability_of
from pipeline.questions.documents import is_number, is_said, is_text, only_json, read_json
from pipeline.questions.entries import Entry, Reading, selection
from pipeline.questions.scenes import place_of, time_of
from pipeline.source import absolute

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cache_schema.format.ledger import Split
    from pipeline.source import Selection, SplitChoice

CONTAINERS = ("data", "items", "samples", "dataset", "records")
"""Keys under which the list of entries may lie."""
CAPABILITY_KEYS = ("question_type", "type", "capability")
"""The first one that an entry has counts."""


class DriveKdQuestions:
    """One JSON file in Drive-KD's form, or a folder with one; implements ``Source``.

    An entry has ``messages`` or ``question`` and ``answer``, ``images`` with paths relative to the file's
    folder, and its capability. Of our own it may have ``scene`` (text), ``frame`` and ``question_id`` (0 or
    more) and ``split`` (train or val); the file may say its ``name`` and ``licence`` beside the list.

    Args:
        root: The file or the folder.

    Raises:
        ClipError: There is no JSON file, or it cannot be read.
        RequestError: There are several.
    """

    kind = "questions"
    ground_truth = QUESTIONS
    tags = TAGS

    def __init__(self, root: Path) -> None:
        self.file = only_json(absolute(root))
        content = read_json(self.file)
        stated = content if isinstance(content, dict) else {}
        name, licence = stated.get("name"), stated.get("licence")
        self.identity = DataIdentity(
            name=name if is_said(name) else f"questions of {self.file.name}",
            licence=licence if is_said(licence) else "unknown: that of the file and of its images",
            frame_rate_hz=0.0,
        )

    def select(self, split: SplitChoice = "all") -> Selection:
        """Return the scenes of a split, sorted by name. Entries that cannot be used are counted in notes.

        Raises:
            ClipError: The file is no list of entries, or none can be used.
            RequestError: There is no scene of this split; a scene is on both sides of it; a capability is
                unknown, or one of our own keys holds something else than it should.
        """
        reading = Reading(self.file, self.file.parent)
        for number, entry in enumerate(self._list()):
            where = f"entry {number}"
            if isinstance(entry, dict):
                self._read(entry, number, where, reading)
            else:
                reading.count("entries that are no JSON objects are left out", where)
        return selection(self, reading, split)

    def _list(self) -> list[Any]:
        content = read_json(self.file)
        if isinstance(content, dict):
            content = next((content[key] for key in CONTAINERS if isinstance(content.get(key), list)), None)
        if not isinstance(content, list):
            raise ClipError(
                f"{self.file} holds no list of entries",
                expected=f"a JSON list, or an object with a list under one of {', '.join(CONTAINERS)}",
                repair="correct the file, or choose another --source",
            )
        return content

    def _read(self, entry: dict[str, Any], number: int, where: str, reading: Reading) -> None:
        question, answer = _texts(entry)
        if not is_said(question):
            return reading.count("entries whose question is no text are left out", where)
        if not is_said(answer):
            return reading.count("entries without an answer in text are left out", where)
        images = entry.get("images")
        if not isinstance(images, list) or not images or not all(is_said(image) for image in images):
            return reading.count("entries without a list of paths of images are left out", where)
        named = f"{where} of {self.file}"
        place = place_of(images[0])
        key = next((key for key in CAPABILITY_KEYS if key in entry), "capability")
        frame = _number(entry, "frame", named)
        question_id = _number(entry, "question_id", named)
        reading.add(
            Entry(
                where=where,
                scene=_scene(entry, named) or place.scene or self.file.stem,
                question_id=number if question_id is None else question_id,
                capability=capability_of(entry.get(key), named),
                question=question,
                answer=answer,
                images=tuple(images),
                frame=place.frame if frame is None else frame,
                time_us=time_of(images),
                split=_split(entry, named),
            )
        )


def _texts(entry: Mapping[str, Any]) -> tuple[object, object]:
    """Return question and answer: the flat keys where both hold text, else the first message of each side."""
    question, answer = entry.get("question"), entry.get("answer")
    if is_text(question) and is_text(answer):
        return question, answer
    messages = entry.get("messages")
    if not isinstance(messages, list):
        return question, answer
    found = {
        message["role"]: message.get("content")
        for message in reversed(messages)
        if isinstance(message, dict) and isinstance(message.get("role"), str)
    }
    return found.get("user"), found.get("assistant")


def _scene(entry: Mapping[str, Any], where: str) -> str | None:
    scene = entry.get("scene")
    if scene is not None and not is_said(scene):
        raise _wrong(where, "scene", scene, "the name of the scene, a text")
    return scene


def _split(entry: Mapping[str, Any], where: str) -> Split | None:
    split = entry.get("split")
    if split not in (None, "train", "val"):
        raise _wrong(where, "split", split, "'train' or 'val'")
    return split


def _number(entry: Mapping[str, Any], key: str, where: str) -> int | None:
    number = entry.get(key)
    if number is not None and not is_number(number):
        raise _wrong(where, key, number, "a whole number of 0 or more, below 2**31")
    return number


def _wrong(where: str, key: str, value: object, expected: str) -> RequestError:
    return RequestError(
        f"{where} has {key!r} = {str(value)[:80]!r}",
        expected=expected,
        repair=f"correct the key, or take it out: {key!r} is optional",
    )

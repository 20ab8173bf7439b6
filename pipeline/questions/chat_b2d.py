"""Chat-B2D's conversations about Bench2Drive, made by a language model (spec: Bench2Drive, section 4)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from cache_schema.errors import ClipError, RequestError
from cache_schema.format.manifest import DataIdentity
from cache_schema.vocabulary.attention import QUESTIONS
from pipeline.bench2drive.clips import FRAME_RATE_HZ, TAGS
from pipeline.questions.bench2drive_frames import (
    check_images,
    folders_of,
    frames_of,
    images_folder,
    images_of,
)
from pipeline.questions.capabilities import capability_of
from pipeline.questions.documents import is_said, read_json
from pipeline.questions.entries import Entry, Reading, selection
from pipeline.source import absolute

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cache_schema.format.ledger import Split
    from pipeline.source import Selection, SplitChoice

FOLDERS = (".", "chat-B2D", "data/chat-B2D")
"""Where ``train`` and ``val`` are looked for in a data root."""
SIDES: tuple[Split, ...] = ("train", "val")

KINDS = {
    "planning": r"\bplanning trajectory\b",
    "behavior": r"\b(behaviou?r|strategy|past|previous)\b",
    "perception": r"\b(objects?|conditions?|environment|images|scene)\b",
}
"""Kind of question -> words by which it is told: the files do not say it. The first one that fits decides, so
that what has changed since the last frames, and how the ego behaves, is behaviour."""


class ChatB2dQuestions:
    """Chat-B2D: ``{train,val}/<clip>/<frame>.json``; implements ``Source``.

    Every round of a conversation is one question. The images are those of Bench2Drive, see
    ``bench2drive_frames.images_folder``: six to a question, in the order of ``geometry.CAMERAS``, of the
    frame itself; what happened before, which a few questions ask about, they do not show.

    Args:
        root: Folder of ``train`` and ``val``, or around ``chat-B2D/``.
    """

    kind = "questions"
    identity = DataIdentity(
        name="Chat-B2D",
        licence="unknown: that of poleyzdk/Chat-B2D; its images: CC BY-NC-ND 4.0",
        frame_rate_hz=FRAME_RATE_HZ,
    )
    ground_truth = QUESTIONS
    tags = TAGS

    def __init__(self, root: Path) -> None:
        self.root = absolute(root)

    def select(self, split: SplitChoice = "all") -> Selection:
        """Return the clips of a split, sorted by name. Rounds that cannot be used are counted in notes.

        Raises:
            ClipError: There is no clip, or none of their images.
            RequestError: There is none of this split, a clip is on both sides of it, or a question is of no
                known kind.
        """
        roots = [self.root / folder for folder in FOLDERS]
        root = next(
            (folder for folder in roots if any((folder / side).is_dir() for side in SIDES)), self.root
        )
        clips = {side: folders_of(root / side) for side in SIDES}
        if not any(clips.values()):
            raise ClipError(
                f"there are no conversations in {root}",
                expected="files like train/Accident_Town03_Route156_Weather0/00012.json there",
                repair="give the folder chat-B2D of the unpacked data",
            )
        images = images_folder(self.root, {*clips["train"], *clips["val"]})
        reading = Reading(root, images)
        for side, folders in clips.items():
            for clip, folder in folders.items():
                reading.add_scene(clip, self._read(folder, images, side, reading))
        return selection(self, reading, split)

    def _read(self, folder: Path, images: Path, side: Split, reading: Reading) -> Iterator[Entry]:
        check_images(images, folder.name)
        for frame, file in frames_of(folder).items():
            rounds = read_json(file)
            if not isinstance(rounds, list):
                raise ClipError(
                    f"{file} holds no list of rounds",
                    expected='[[{"from": "human", "value": ...}, {"from": "gpt", "value": ...}], ...]',
                    repair="fetch the file again, or correct it",
                )
            views = images_of(images, folder.name, frame)
            for place, pair in enumerate(rounds):
                where = f"round {place} of {side}/{folder.name}/{file.name}"
                question, answer = _said(pair, "human"), _said(pair, "gpt")
                if not is_said(question):
                    reading.count("rounds whose question is no text are left out", where)
                elif not is_said(answer):
                    reading.count("rounds without an answer in text are left out", where)
                else:
                    yield Entry(
                        where=where,
                        scene=folder.name,
                        question_id=place,
                        capability=capability_of(kind_of(question, where), where),
                        question=question,
                        answer=answer,
                        images=views,
                        frame=frame,
                        split=side,
                    )


def _said(pair: Any, speaker: str) -> object:
    turns = pair if isinstance(pair, list) else []
    return next(
        (turn.get("value") for turn in turns if isinstance(turn, dict) and turn.get("from") == speaker), None
    )


def kind_of(question: str, where: str) -> str:
    """Return of which of ``KINDS`` a question is.

    Raises:
        RequestError: It is of none.
    """
    for kind, words in KINDS.items():
        if re.search(words, question, re.IGNORECASE):
            return kind
    raise RequestError(
        f"{where} asks what no kind of question fits: {question[:80]!r}",
        expected="; ".join(f"{kind}: {words}" for kind, words in KINDS.items()),
        repair="take the round out of the file, or bring the data to Drive-KD's form and name the capability",
    )

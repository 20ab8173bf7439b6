"""A clip of questions: all that is asked about one scene."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from cache_schema.errors import ClipError
from cache_schema.storage.atomic_io import sha256_of
from cache_schema.vocabulary.attention import (
    CAPABILITIES,
    CAPABILITY,
    FRAME_INDEX,
    IMAGE_DIGESTS,
    QUESTION_ID,
)
from pipeline.questions.sample import ImageFile, QuestionSample
from pipeline.questions.scenes import tags_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cache_schema.format.ledger import Split


@dataclass(frozen=True, slots=True)
class Question:
    """One question as its data set has it; see ``QuestionSample``."""

    frame: int
    question_id: int
    capability: str
    question: str
    answer: str
    images: tuple[str, ...]
    """Paths as they are written, relative to a folder of the clip's."""


@dataclass(frozen=True)
class QuestionClip:
    """All that is asked about one scene; implements ``Clip``."""

    name: str
    split: Split
    index: int
    scene: str
    """The scene's own name."""
    folder: Path
    """Where relative paths of images begin."""
    questions: tuple[Question, ...]
    """By frame; those about the same images of a frame one after the other."""

    @property
    def samples(self) -> int:
        """Number of questions."""
        return len(self.questions)

    @property
    def tags(self) -> dict[str, str]:
        """Scenario, town, route and weather of a Bench2Drive clip."""
        return tags_of(self.scene)

    def fingerprint(self) -> str:
        """Return a digest of questions, answers and the content of images, wherever they lie.

        An image that cannot be read counts as such.
        """
        images: dict[str, str | None] = {}
        for written in self._first_questions():
            try:
                images[written] = sha256_of(self.folder / written)
            except (OSError, ValueError):
                images[written] = None
        digest = hashlib.sha256()
        for question in self.questions:
            row = (
                *(question.frame, question.question_id, question.capability),
                *(question.question, question.answer, *(images[written] for written in question.images)),
            )
            digest.update(json.dumps(row).encode() + b"\n")
        return digest.hexdigest()

    def open(self) -> OpenQuestions:
        """Read every image once, for its digest.

        Raises:
            ClipError: An image cannot be read.
        """
        first = self._first_questions()
        return OpenQuestions(self, {written: self._image(written, asks) for written, asks in first.items()})

    def _first_questions(self) -> dict[str, Question]:
        """Return the first question about every image, by its path as it is written."""
        first: dict[str, Question] = {}
        for question in self.questions:
            for written in question.images:
                first.setdefault(written, question)
        return first

    def _image(self, written: str, question: Question) -> ImageFile:
        file = self.folder / written
        try:
            return ImageFile(written, file, sha256_of(file))
        except (OSError, ValueError) as error:
            raise ClipError(
                f"an image of clip {self.name} cannot be read, about which question {question.question_id} "
                f"of frame {question.frame} asks: {error}",
                expected=f"an image file {file}",
                repair="put the image there, or link the folder of the images to where their paths lead",
            ) from error


@dataclass(frozen=True)
class OpenQuestions:
    """A clip whose images have been found; implements ``OpenClip``."""

    clip: QuestionClip
    images: dict[str, ImageFile]
    """By the path as it is written."""

    def ground_truth(self) -> dict[str, np.ndarray | Sequence[np.ndarray]]:
        """Return the features of ``cache_schema.vocabulary.attention.QUESTIONS`` of every question."""
        questions = self.clip.questions
        return {
            CAPABILITY: np.array(
                [CAPABILITIES.index(question.capability) for question in questions], np.int8
            ),
            FRAME_INDEX: np.array([question.frame for question in questions], np.int32),
            QUESTION_ID: np.array([question.question_id for question in questions], np.int32),
            IMAGE_DIGESTS: [
                np.stack([self._digests[written] for written in question.images]) for question in questions
            ],
        }

    @cached_property
    def _digests(self) -> dict[str, np.ndarray]:
        return {
            written: np.frombuffer(bytes.fromhex(image.sha256), np.uint8)
            for written, image in self.images.items()
        }

    def sample(self, index: int) -> QuestionSample:
        """Return one question with its images. No image is opened."""
        question = self.clip.questions[index]
        return QuestionSample(
            clip=self.clip.name,
            frame=question.frame,
            question_id=question.question_id,
            capability=question.capability,
            question=question.question,
            answer=question.answer,
            images=tuple(self.images[written] for written in question.images),
        )

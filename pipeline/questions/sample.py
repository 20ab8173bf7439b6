"""A question about images and its answer: what a source of kind ``questions`` gives a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PLACEHOLDER = "<image>"
"""Stands in a question where an image goes."""


@dataclass(frozen=True)
class ImageFile:
    """An image as it was when its clip was opened."""

    written: str
    """Path as the source writes it."""
    file: Path
    sha256: str
    """Hexadecimal digest of the file. What reads the image later checks it."""


@dataclass(frozen=True)
class QuestionSample:
    """One question, its answer, and the images that it is about, in their order."""

    clip: str
    """Name of the clip: all that is asked about one scene."""
    frame: int
    """Number of the frame of the scene."""
    question_id: int
    """Number of the question where its data set has them, else its place in the file."""
    capability: str
    """One of ``cache_schema.vocabulary.attention.CAPABILITIES``."""
    question: str
    """Text of the user as written, with a ``PLACEHOLDER`` where an image goes."""
    answer: str
    """Text of the assistant as written."""
    images: tuple[ImageFile, ...]
    """One or more. They take the placeholders' places in order, or precede a question that has none.

    There are never more of them than placeholders; surplus placeholders are text.
    """

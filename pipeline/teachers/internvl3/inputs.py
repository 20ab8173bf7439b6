"""From a question to a teacher's inputs, and the features that hold them.

Dimension letters: B slots, N token, n image, S side of an image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from cache_schema.errors import ClipError
from cache_schema.vocabulary.attention import ANSWER_START, IMAGE_RUNS, TOKEN_IDS
from pipeline.teachers.internvl3.images import ImageReader, PixelRecipe
from pipeline.teachers.internvl3.sequence import token_sequence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from pipeline.questions.sample import QuestionSample
    from pipeline.teachers.internvl3.model.sizes import InternVLSizes
    from pipeline.teachers.internvl3.sequence import Layout
    from pipeline.teachers.internvl3.tokenizer import QuestionTokenizer


@dataclass(frozen=True)
class QuestionInputs:
    """One question, prepared."""

    clip: str
    token_ids: Tensor
    """(N) int32."""
    image_runs: Tensor
    """(n, 2) int32."""
    answer_start: int
    prefix: int
    """See ``TokenSequence``."""
    images: tuple[str, ...]
    """(n) sha256 of every image that has a place in the question."""
    pixels: Tensor
    """(n, S, S, 3) uint8."""


class QuestionReader:
    """Tokenises questions and reads their images; for several threads.

    Args:
        tokenizer: Of the model.
        sizes: Of the model.
        layout: What stands between images.
        max_tokens: Longest sequence.
    """

    def __init__(
        self,
        tokenizer: QuestionTokenizer,
        sizes: InternVLSizes,
        layout: Layout,
        max_tokens: int | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.recipe = PixelRecipe(sizes.vision.image_size)
        self._tokens_per_image = sizes.tokens_per_image
        self._layout: Layout = layout
        self._max_tokens = max_tokens
        self._images = ImageReader(self.recipe)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What a teacher's identity says of it, as JSON values."""
        return {
            "image": self.recipe.describe(),
            "layout": self._layout,
            "tokenizer": self.tokenizer.digest,
        }

    def read(self, sample: QuestionSample) -> QuestionInputs:
        """Return the inputs of a question.

        Raises:
            ClipError: The sequence is too long, or an image is missing, broken or changed.
        """
        sequence = token_sequence(
            sample.question,
            sample.answer,
            [image.written for image in sample.images],
            self.tokenizer,
            self._tokens_per_image,
            self._layout,
        )
        length = len(sequence.token_ids)
        if self._max_tokens is not None and length > self._max_tokens:
            raise ClipError(
                f"question {sample.question_id} about frame {sample.frame} of {sample.clip} has "
                f"{length} tokens, and max_tokens is {self._max_tokens}",
                expected="no more, so that there is memory for their attention",
                repair="use a larger --set max_tokens=N if the memory suffices, or shorten the question or "
                "take it out",
            )
        used = sample.images[: len(sequence.image_runs)]
        return QuestionInputs(
            clip=sample.clip,
            token_ids=torch.tensor(sequence.token_ids, dtype=torch.int32),
            image_runs=torch.tensor(sequence.image_runs, dtype=torch.int32).reshape(-1, 2),
            answer_start=sequence.answer_start,
            prefix=sequence.prefix,
            images=tuple(image.sha256 for image in used),
            pixels=self._images.read(used),
        )


def sequence_features(batch: Sequence[QuestionInputs | None]) -> dict[str, Tensor | list[Tensor]]:
    """Return the features of ``cache_schema.vocabulary.attention.SEQUENCE`` of B slots, some of them idle."""
    idle = torch.zeros(0, dtype=torch.int32)
    return {
        TOKEN_IDS: [idle if row is None else row.token_ids for row in batch],
        IMAGE_RUNS: [idle.reshape(0, 2) if row is None else row.image_runs for row in batch],
        ANSWER_START: torch.tensor([row.answer_start if row else 0 for row in batch], dtype=torch.int32),
    }


def pinned(batch: Sequence[QuestionInputs | None], device: str) -> list[QuestionInputs | None]:
    """Return inputs whose pixels a GPU can fetch by itself, if the device is one."""
    if torch.device(device).type != "cuda":
        return list(batch)
    return [row and replace(row, pixels=row.pixels.pin_memory()) for row in batch]

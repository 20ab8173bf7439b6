"""A question, its images and its answer as one sequence of tokens.

Source: spec Drive-KD 3 and 4.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cache_schema.vocabulary.attention import ASSISTANT, USER
from pipeline.questions.sample import PLACEHOLDER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.teachers.internvl3.tokenizer import QuestionTokenizer

Layout = Literal["intended", "released"]
"""``released`` repeats a mistake of Drive-KD's program: paths of images stand between them."""


@dataclass(frozen=True)
class TokenSequence:
    """Prompt and answer."""

    token_ids: tuple[int, ...]
    """Tokens of an image have the placeholder's id, and no other token has it."""
    image_runs: tuple[tuple[int, int], ...]
    """Where the tokens of every image are, from the first to behind the last."""
    answer_start: int
    """Place of the assistant's header. Learned is everything from there on."""
    prefix: int
    """Tokens up to and including the last image, if nothing of the question stands before; else 0."""


def token_sequence(
    question: str,
    answer: str,
    images: Sequence[str],
    tokenizer: QuestionTokenizer,
    tokens_per_image: int,
    layout: Layout = "intended",
) -> TokenSequence:
    """Return the sequence of one question.

    Args:
        question: Text of the user; ``<image>`` stands for an image.
        answer: Text of the assistant.
        images: Paths of the images as they are written; only ``released`` reads them.
        tokenizer: Of the model.
        tokens_per_image: Tokens that the model gets of one image.
        layout: What stands between the images.
    """
    before, last = placed(question, images, layout)
    ids, runs = [tokenizer.begin], []
    text = USER
    for part in before:
        ids += tokenizer.encode(text + part)
        ids.append(tokenizer.image)
        runs.append((len(ids), len(ids) + tokens_per_image))
        ids += [tokenizer.image_context] * tokens_per_image
        ids.append(tokenizer.image_end)
        text = ""
    prefix = len(ids) if before and not any(before) else 0
    newline = tokenizer.encode("\n")
    ids += [*tokenizer.encode(text + last), tokenizer.end, *newline]
    answer_start = len(ids)
    ids += [tokenizer.begin, *tokenizer.encode(ASSISTANT + answer), tokenizer.end, *newline]
    return TokenSequence(tuple(ids), tuple(runs), answer_start, prefix)


def placed(question: str, images: Sequence[str], layout: Layout) -> tuple[list[str], str]:
    """Return the text before every image that has a place, and the text behind the last one.

    Images take the placeholders' places in order, and precede a question that has none. Of more images than
    placeholders the last are dropped; more placeholders than images stay text.
    """
    parts = question.split(PLACEHOLDER)
    if len(parts) == 1:
        parts = [*("" for _ in images), question]
    used = min(len(parts) - 1, len(images))
    before, last = parts[:used], PLACEHOLDER.join(parts[used:])
    if layout == "released":
        # The list that images are put into already holds their paths, so it is read at half the pace.
        alternating = itertools.chain.from_iterable(zip(before, images[:used], strict=True))
        before = list(itertools.islice(alternating, used))
    return before, last

"""Replies compared with answers, question by question.

Dimension letters: N question, S sum over questions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from student.drive_kd.evaluation.multiple_choice import chosen, offered
from student.drive_kd.evaluation.objects import match_f1
from student.drive_kd.evaluation.overlap import bleu_sums, cider_d, rouge_l

if TYPE_CHECKING:
    from collections.abc import Sequence

NO_CHOICE, UNPARSED, WRONG, RIGHT = -2, -1, 0, 1
"""Of ``Compared.choice``."""


class Compared(NamedTuple):
    """Every measure of every reply."""

    letter: np.ndarray
    """(N) letter of the right answer; "" where the question offers none, or the answer names none of them."""
    choice: np.ndarray
    """(N) int8: right, wrong, unparsed, or no multiple choice."""
    bleu: np.ndarray
    """(N, S) of ``student.drive_kd.evaluation.overlap.bleu_sums``."""
    rouge_l: np.ndarray
    """(N)"""
    cider_d: np.ndarray
    """(N)"""
    objects_f1: np.ndarray
    """(N); NaN where the answer names no object."""


def compare(questions: Sequence[str], answers: Sequence[str], replies: Sequence[str]) -> Compared:
    """Compare N replies with the answers to the same questions."""
    letters, choices = [], []
    for question, answer, reply in zip(questions, answers, replies, strict=True):
        letter, choice = _choice(offered(question), answer, reply)
        letters.append(letter)
        choices.append(choice)
    matches = [match_f1(reply, answer) for reply, answer in zip(replies, answers, strict=True)]
    return Compared(
        letter=np.array(letters),
        choice=np.array(choices, dtype=np.int8),
        bleu=np.stack([*map(bleu_sums, replies, answers)]),
        rouge_l=np.array([*map(rouge_l, replies, answers)]),
        cider_d=cider_d(replies, answers),
        objects_f1=np.array([np.nan if f1 is None else f1 for f1 in matches]),
    )


def _choice(letters: str, answer: str, reply: str) -> tuple[str, int]:
    right = chosen(answer, letters)
    if right is None:
        return "", NO_CHOICE
    found = chosen(reply, letters)
    return right, UNPARSED if found is None else RIGHT if found == right else WRONG

"""Measures of single questions as means over all, and over each capability, with intervals over clips.

Dimension letters: N question.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cache_schema.vocabulary.attention import CAPABILITIES
from student.drive_kd.evaluation.compare import NO_CHOICE, RIGHT, UNPARSED
from student.drive_kd.evaluation.overlap import BLEU_4, CIDER_D, ROUGE_L, bleu_4
from student.drive_kd.evaluation.result import ALL, MultipleChoice, ObjectMatch, QuestionGroup
from student.drive_kd.losses import ANSWER_CE
from student.open_loop.bootstrap import means, of_sums

if TYPE_CHECKING:
    from collections.abc import Mapping

    from student.drive_kd.evaluation.compare import Compared
    from student.open_loop.bootstrap import Estimate


def summarise(
    compared: Compared,
    losses: Mapping[str, np.ndarray],
    *,
    answer_tokens: np.ndarray,
    cut: np.ndarray,
    capability: np.ndarray,
    clip_of: np.ndarray,
) -> dict[str, QuestionGroup]:
    """Summarise all questions, and those of each capability that there are questions of.

    Args:
        compared: Replies against answers.
        losses: Term -> (N), NaN where it does not exist.
        answer_tokens: (N) tokens that the cross-entropy is the mean of.
        cut: (N) whether the reply came to no end.
        capability: (N) index into ``CAPABILITIES``.
        clip_of: (N) clip of each question.
    """
    counted = {ALL: np.ones(len(clip_of), dtype=bool)}
    counted |= {name: capability == number for number, name in enumerate(CAPABILITIES)}

    def mean(values: np.ndarray, rows: np.ndarray) -> Estimate:
        return means(values[:, None].astype(np.float64), rows, clip_of)[0]

    def group(rows: np.ndarray) -> QuestionGroup:
        known = {name: rows & ~np.isnan(values) for name, values in losses.items()}
        return QuestionGroup(
            clips=len(np.unique(clip_of[rows])),
            questions=int(rows.sum()),
            losses={name: mean(losses[name], found) for name, found in known.items() if found.any()},
            perplexity=_perplexity(losses[ANSWER_CE], answer_tokens, rows, clip_of)
            if ANSWER_CE in losses
            else None,
            overlap={
                BLEU_4: of_sums(compared.bleu, rows, clip_of, lambda sums: bleu_4(sums)[..., None])[0],
                ROUGE_L: mean(compared.rouge_l, rows),
                CIDER_D: mean(compared.cider_d, rows),
            },
            multiple_choice=_multiple_choice(compared, rows, clip_of),
            objects=ObjectMatch(questions=int(named.sum()), f1=mean(compared.objects_f1, named))
            if (named := rows & ~np.isnan(compared.objects_f1)).any()
            else None,
            cut=int(cut[rows].sum()),
        )

    return {name: group(rows) for name, rows in counted.items() if rows.any()}


def _perplexity(
    cross_entropy: np.ndarray, tokens: np.ndarray, rows: np.ndarray, clip_of: np.ndarray
) -> Estimate:
    """Return exp of the mean cross-entropy of a token; every token counts alike."""
    sums = np.stack([cross_entropy * tokens, tokens], axis=1)
    return of_sums(sums, rows, clip_of, lambda sums: np.exp(sums[..., :1] / sums[..., 1:]))[0]


def _multiple_choice(compared: Compared, rows: np.ndarray, clip_of: np.ndarray) -> MultipleChoice | None:
    offered = rows & (compared.choice != NO_CHOICE)
    if not offered.any():
        return None
    letters, counts = np.unique(compared.letter[offered], return_counts=True)
    table = np.stack(
        [
            compared.choice == RIGHT,
            compared.choice == UNPARSED,
            compared.letter == letters[counts.argmax()],
        ],
        axis=1,
    )
    accuracy, unparsed, majority = means(table.astype(np.float64), offered, clip_of)
    return MultipleChoice(
        questions=int(offered.sum()), accuracy=accuracy, unparsed=unparsed, majority=majority
    )

"""How much of an answer's wording a reply has: BLEU by sacrebleu, ROUGE-L and CIDEr-D as COCO defines them.

The only package with COCO's scorers carries a hundred megabytes of Java archives, so the latter two are here.
Each metric's name says how texts are normalised: other tokens give other numbers.

Dimension letters: N question, S sum of BLEU's (4 matches, 4 totals, length of the reply, of the answer).
"""

from __future__ import annotations

import functools
import importlib.util
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from cache_schema.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

ORDERS = (1, 2, 3, 4)
"""Lengths of the n-grams of BLEU-4 and CIDEr."""
BLEU_4 = "BLEU-4 (13a, cased)"
ROUGE_L = "ROUGE-L (words, lower)"
CIDER_D = "CIDEr-D (words, lower)"

ROUGE_BETA = 1.2
"""Weight of recall in COCO's ROUGE-L."""
CIDER_SIGMA = 6.0
"""Words of difference in length after which CIDEr-D falls by exp(-1/2) (Vedantam et al. 2015)."""
CIDER_SCALE = 10.0

_WORD = re.compile(r"\d+\.\d+|\w+")

Gram = tuple[str, ...]


def words(text: str) -> list[str]:
    """Return words, numbers with their decimals, in lower case and without punctuation."""
    return _WORD.findall(text.lower())


def bleu_sums(reply: str, answer: str) -> np.ndarray:
    """Return what BLEU adds up over questions, (S).

    Raises:
        RequestError: sacrebleu is not installed.
    """
    found = _bleu().corpus_score([reply], [[answer]])
    return np.array([*found.counts, *found.totals, found.sys_len, found.ref_len], dtype=np.float64)


def bleu_4(sums: np.ndarray) -> np.ndarray:
    """Return BLEU-4, 0 to 100, for sums (..., S) over questions, (...); smoothed as sacrebleu does."""
    scorer, lines = _bleu(), sums.astype(np.int64).reshape(-1, sums.shape[-1]).tolist()
    scores = [
        scorer.compute_bleu(
            correct=line[:4],
            total=line[4:8],
            sys_len=line[8],
            ref_len=line[9],
            smooth_method=scorer.smooth_method,
        ).score
        for line in lines
    ]
    return np.array(scores).reshape(sums.shape[:-1])


def rouge_l(reply: str, answer: str) -> float:
    """Return the F-measure of the longest common subsequence of words, 0 to 1."""
    ours, theirs = words(reply), words(answer)
    common = _common_subsequence(ours, theirs)
    if not common:
        return 0.0
    precision, recall = common / len(ours), common / len(theirs)
    weight = ROUGE_BETA**2
    return (1 + weight) * precision * recall / (recall + weight * precision)


def cider_d(replies: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    """Return the CIDEr-D of each reply, 0 to 10, (N).

    What all answers have in common counts little: how often an n-gram occurs is taken from all of them.
    """
    answered = [_grams(words(answer)) for answer in answers]
    documents = Counter(gram for grams in answered for gram in grams)
    scores = [
        _cider(_grams(words(reply)), answer, documents, len(answers))
        for reply, answer in zip(replies, answered, strict=True)
    ]
    return np.array(scores)


def _cider(reply: Counter[Gram], answer: Counter[Gram], documents: Counter[Gram], count: int) -> float:
    """Return the mean over the orders of the cosine of weighted n-grams, clipped at those of the answer."""
    weight = {gram: np.log(count / max(1, documents[gram])) for gram in (*reply, *answer)}
    similarity = 0.0
    for order in ORDERS:
        ours, theirs = (
            {gram: times * weight[gram] for gram, times in grams.items() if len(gram) == order}
            for grams in (reply, answer)
        )
        norm = np.sqrt(sum(v * v for v in ours.values()) * sum(v * v for v in theirs.values()))
        if norm > 0:
            common = [gram for gram in ours if gram in theirs]
            similarity += sum(min(ours[gram], theirs[gram]) * theirs[gram] for gram in common) / norm
    longer = _length(reply) - _length(answer)
    penalty = np.exp(-(longer**2) / (2 * CIDER_SIGMA**2))
    return float(CIDER_SCALE * penalty * similarity / len(ORDERS))


def _grams(tokens: list[str]) -> Counter[Gram]:
    return Counter(
        tuple(tokens[begin : begin + order]) for order in ORDERS for begin in range(len(tokens) - order + 1)
    )


def _length(grams: Counter[Gram]) -> int:
    return sum(times for gram, times in grams.items() if len(gram) == 1)


def _common_subsequence(ours: list[str], theirs: list[str]) -> int:
    """Return the length of the longest common subsequence."""
    above = [0] * (len(theirs) + 1)
    for word in ours:
        row = [0]
        for place, other in enumerate(theirs):
            row.append(above[place] + 1 if word == other else max(above[place + 1], row[place]))
        above = row
    return above[-1]


def require_sacrebleu() -> None:
    """Check that sacrebleu is installed.

    Raises:
        RequestError: It is not.
    """
    if importlib.util.find_spec("sacrebleu") is None:
        raise RequestError(
            "BLEU cannot be computed without sacrebleu",
            expected="the package sacrebleu",
            repair="pip install 'teachonce[evaluate]'",
        )


@functools.cache
def _bleu() -> Any:
    require_sacrebleu()
    from sacrebleu.metrics.bleu import BLEU

    return BLEU()

import importlib.util

import numpy as np
import pytest

from student.drive_kd.evaluation import overlap
from student.drive_kd.evaluation.overlap import bleu_4, bleu_sums, cider_d, rouge_l, words

ANSWERS = (
    "the ego car keeps going ahead slowly",
    "the car in front turns left",
    "there is a red light ahead so stop",
    "stop",
)
REPLIES = (
    "the ego car keeps going straight ahead",
    "a car in front turns right now",
    "stop there is a red light",
    "go",
)
COCO_ROUGE_L = (0.8571428571428571, 0.6240409207161125, 0.6963470319634703, 0.0)
COCO_CIDER = (6.39035088, 4.67569957, 6.39376524, 0.0)
"""What pycocoevalcap 1.2 makes of them."""

sacrebleu = pytest.mark.skipif(importlib.util.find_spec("sacrebleu") is None, reason="teachonce[evaluate]")


def test_words_are_lower_case_and_numbers_whole():
    assert words("Keep <c1,CAM_FRONT,0.46,0.67>; STOP now.") == [
        *("keep", "c1", "cam_front", "0.46", "0.67", "stop", "now")
    ]


def test_rouge_and_cider_are_those_of_coco():
    assert [*map(rouge_l, REPLIES, ANSWERS)] == pytest.approx(COCO_ROUGE_L, rel=1e-12)
    assert cider_d(REPLIES, ANSWERS) == pytest.approx(np.array(COCO_CIDER), rel=1e-7)


def test_rouge_by_hand():
    # "a c" is common: precision 2/2, recall 2/3, beta 1.2.
    assert rouge_l("A, c", "a b c.") == pytest.approx(2.44 * (2 / 3) / (2 / 3 + 1.44))
    assert rouge_l("", "a b") == rouge_l("a", "") == 0.0


def test_cider_by_hand():
    # Of two answers, each n-gram occurs in one: all weights are ln 2, which cancels in the cosine.
    answers = ("a b", "c")
    exact, nothing = cider_d(("a b", ""), answers)
    assert exact == pytest.approx(10 * 2 / 4)  # unigrams and bigrams are equal, there are no longer ones
    assert nothing == 0
    # Twice "a" counts once: 1 / (2 * sqrt(2)).
    assert cider_d(("a a", "c"), answers)[0] == pytest.approx(10 / 4 / 8**0.5)
    # One word more: 2 / sqrt(6) of unigrams, 1 / sqrt(2) of bigrams, and the penalty.
    expected = 10 / 4 * (2 / 6**0.5 + 1 / 2**0.5) * np.exp(-1 / 72)
    assert cider_d(("a b x", "c"), answers)[0] == pytest.approx(expected)
    # What all answers say has no weight.
    assert cider_d(("same", "same"), ("same", "same")) == pytest.approx(np.zeros(2))


@sacrebleu
def test_bleu_by_hand():
    # Precisions 5/6, 3/5, 1/4, and for 4-grams 1/(2 * 3) by smoothing; equal lengths.
    sums = bleu_sums("the cat is on the mat", "the cat sat on the mat")
    assert sums.tolist() == [5, 3, 1, 0, 6, 5, 4, 3, 6, 6]
    assert bleu_4(sums) == pytest.approx(100 * (5 / 6 * 3 / 5 * 1 / 4 * 1 / 6) ** 0.25)
    # Case counts, and too short a reply is punished by exp(1 - 6/5).
    short = bleu_sums("The cat sat on the", "the cat sat on the mat")
    expected = 100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25 * np.exp(1 - 6 / 5)
    assert bleu_4(short) == pytest.approx(expected)
    assert bleu_4(bleu_sums("", "the cat")) == 0.0


@sacrebleu
def test_bleu_of_sums_is_that_of_the_corpus():
    from sacrebleu import corpus_bleu

    sums = np.stack([*map(bleu_sums, REPLIES, ANSWERS)])
    assert bleu_4(np.stack([sums.sum(axis=0), sums[0]])) == pytest.approx(
        [corpus_bleu(REPLIES, [ANSWERS]).score, corpus_bleu(REPLIES[:1], [ANSWERS[:1]]).score]
    )


def test_without_sacrebleu_its_extra_is_named(monkeypatch):
    overlap._bleu.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(overlap.RequestError, match=r"without sacrebleu(.|\n)*teachonce\[evaluate\]"):
        bleu_sums("a", "b")

"""Measures a student on held-out questions: what it has learned of the teacher, and what it answers.

Dimension letters: N question.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from cache_schema.progress import SILENT, Progress
from cache_schema.vocabulary.attention import (
    ANSWER_START,
    ATTENTION_GROUPS,
    CAPABILITY,
    FRAME_INDEX,
    IMAGE_RUNS,
    QUESTION_ID,
    TOKEN_IDS,
)
from student.drive_kd.datasets import taught_layers
from student.drive_kd.evaluation.compare import compare
from student.drive_kd.evaluation.generate import greedy_replies
from student.drive_kd.evaluation.overlap import require_sacrebleu
from student.drive_kd.evaluation.result import QuestionEvaluation
from student.drive_kd.evaluation.summary import summarise
from student.drive_kd.evaluation.texts import Texts
from student.drive_kd.losses import LOSSES, Loss
from student.drive_kd.sample import image_feature, samples_of
from student.loading.batches import LatentSamples
from student.loading.dataset import stores
from student.system import build_losses

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from student.drive_kd.evaluation.generate import Reply
    from student.drive_kd.model import DriveKd
    from student.loading.dataset import Dataset

BATCH = 8
"""Prompts that are continued together."""
LENGTH_FACTOR = 2
"""A reply is cut at so many times the longest answer of the split: one that goes on longer repeats itself."""

REASONING = "reasoning"
LABELS = (CAPABILITY, FRAME_INDEX, QUESTION_ID)


def evaluate_questions(
    model: DriveKd,
    dataset: Dataset,
    split: str,
    *,
    device: torch.device,
    batch_size: int = BATCH,
    longest_reply: int | None = None,
    progress: Progress = SILENT,
) -> tuple[QuestionEvaluation, dict[str, np.ndarray]]:
    """Measure a student on the questions of a split.

    Losses are Drive-KD's own, unweighted: all whose signals the dataset has, whatever the student was trained
    for, so that runs compare.

    Args:
        model: In evaluation mode, on the device.
        dataset: The teacher's dataset and the student's, joined.
        split: "train", "val" or "all".
        device: Where batches go.
        batch_size: Prompts that are continued together.
        longest_reply: Tokens after which a reply is cut; ``LENGTH_FACTOR`` times the longest answer if None.
        progress: Counts questions, each twice.

    Returns:
        What was found, and the arrays of every question.

    Raises:
        RequestError: The dataset lacks a feature, or clips of this split, or sacrebleu is not installed.
        DatasetError: The dataset's tokenizer does not fit its token ids.
    """
    require_sacrebleu()
    texts = Texts(dataset)
    losses = measurable(model, dataset)
    image = image_feature(model.trainable)
    targets = {name for loss in losses.values() for name in loss.required_features}
    features = {*targets, *LABELS, TOKEN_IDS, IMAGE_RUNS, ANSWER_START, image}
    samples = LatentSamples(dataset, split, features, device=device)
    progress.expect(2 * len(samples))
    forced = _teacher_forced(model, samples, losses, progress)
    turns = [*zip(forced.token_ids, forced.answer_start, strict=True)]
    questions, answers = ([of(*turn) for turn in turns] for of in (texts.question, texts.answer))

    answer_tokens = np.array([len(ids) - start for ids, start in turns])
    longest = longest_reply or LENGTH_FACTOR * int(answer_tokens.max())
    replies = _replies(
        model,
        LatentSamples(dataset, split, (IMAGE_RUNS, image), device=device),
        [texts.prompt(*turn) for turn in turns],
        stop=texts.stop,
        longest=longest,
        batch_size=batch_size,
        progress=progress,
    )
    written = [texts.text(reply.ids) for reply in replies]
    cut = np.array([not reply.ended for reply in replies])
    compared = compare(questions, answers, written)
    groups = summarise(
        compared,
        forced.terms,
        answer_tokens=answer_tokens,
        cut=cut,
        capability=forced.labels[CAPABILITY],
        clip_of=samples.clip_of,
    )
    encoded = [text.encode() for text in written]
    arrays = {
        "clip": samples.clip_of.astype(np.int64),
        **forced.labels,
        **{f"loss.{name}": values for name, values in forced.terms.items()},
        "answer_tokens": answer_tokens,
        "choice": compared.choice,
        "rouge_l": compared.rouge_l,
        "cider_d": compared.cider_d,
        "objects_f1": compared.objects_f1,
        "cut": cut,
        "replies": np.frombuffer(b"".join(encoded), dtype=np.uint8),
        "reply_ends": np.cumsum([*map(len, encoded)], dtype=np.int64),
    }
    found = QuestionEvaluation(split=split, clips=samples.clips, groups=groups, longest_reply=longest)
    return found, arrays


def measurable(model: DriveKd, dataset: Dataset) -> dict[str, Loss]:
    """Return the terms, with their default options, whose signals a dataset has for this student."""
    every = build_losses(LOSSES, {name: {} for name in LOSSES}, Loss)
    found = {
        name: loss
        for name, loss in every.items()
        if all(stores(dataset, feature) for feature in loss.required_features)
    }
    if REASONING in found and taught_layers(dataset.holder(ATTENTION_GROUPS)) != model.group_layers:
        del found[REASONING]  # made for a student of another depth, which this one was not trained with
    return found


class _TeacherForced(NamedTuple):
    """Every question as the dataset has it, and how well the student predicts it."""

    token_ids: list[list[int]]
    answer_start: list[int]
    labels: dict[str, np.ndarray]
    """``LABELS`` -> (N) int64"""
    terms: dict[str, np.ndarray]
    """Term -> (N); NaN where its signal was not extracted."""


@torch.no_grad()
def _teacher_forced(
    model: DriveKd, samples: LatentSamples, losses: Mapping[str, Loss], progress: Progress
) -> _TeacherForced:
    """Read every question with its answer, one by one."""
    layers = {layer for loss in losses.values() for layer in loss.layers(model)}
    token_ids, answer_start = [], []
    labels = {name: np.zeros(len(samples), dtype=np.int64) for name in LABELS}
    terms = {name: np.full(len(samples), np.nan) for name in losses}
    for place, (_, batch) in enumerate(samples.batches(np.arange(len(samples)), 1)):
        (sample,) = samples_of(batch, model.trainable)
        output = model(
            sample.token_ids,
            sample.image_runs,
            sample.images,
            layers=layers,
            logits_from=sample.answer_start - 1,
        )
        for name, loss in losses.items():
            needed = loss.required_features
            if not needed or any(sample.targets[feature].numel() for feature in needed):
                terms[name][place] = float(loss(output, sample, model))
        for name, values in labels.items():
            values[place] = int(batch[name])
        token_ids.append(sample.token_ids.tolist())
        answer_start.append(sample.answer_start)
        progress.advance(1, "teacher-forced")
    return _TeacherForced(token_ids, answer_start, labels, terms)


@torch.no_grad()
def _replies(
    model: DriveKd,
    samples: LatentSamples,
    prompts: Sequence[Sequence[int]],
    *,
    stop: int,
    longest: int,
    batch_size: int,
    progress: Progress,
) -> list[Reply]:
    """Return the reply to each prompt. Prompts of like length are continued together."""
    replies: dict[int, Reply] = {}
    by_length = np.argsort([len(prompt) for prompt in prompts], kind="stable")
    image = image_feature(model.trainable)
    for rows, batch in samples.batches(by_length, batch_size):
        embedded = [
            model.embed(
                torch.tensor(prompts[row], device=samples.device),
                batch[IMAGE_RUNS].item(place),
                batch[image].item(place),
            )
            for place, row in enumerate(rows)
        ]
        found = greedy_replies(model.language_model, model.lm_head, embedded, stop=stop, most=longest)
        replies |= dict(zip(rows.tolist(), found, strict=True))
        progress.advance(len(rows), "replies")
    return [replies[row] for row in range(len(prompts))]

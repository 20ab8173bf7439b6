"""Datasets of a few questions for the recorded student: the teacher's, and the student's own."""

from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save
from tokenizers import Tokenizer

from cache_schema.vocabulary.attention import (
    CAPABILITIES,
    QUESTIONS,
    SEQUENCE,
    attention_features,
    embedding_features,
    pixel_features,
)
from tests.student.drive_kd.datasets import SIDE, TOKENS, WIDTH, write
from tests.student.drive_kd.recorded import (
    META,
    SAMPLES,
    SET,
    answer_start,
    inputs,
    model_arguments,
    tensors,
)

GROUPS = META["student"]["L"] - 1
TOKENIZER = Tokenizer.from_file(str(SET / "tokenizer.json"))


class Question(NamedTuple):
    clip: str
    split: str
    capability: str
    text: str
    answer: str
    images: int = 1


QUESTIONS_ASKED = (
    Question("a", "train", "perception", "Which is it? A. Left. B. Right. C. Up.", "Final: {B. Right.}"),
    Question("a", "train", "perception", "And this? A. Left. B. Right. C. Up.", "Final: {B. Right.}", 2),
    Question("a", "train", "planning", "What now?", "Stop for <c1,CAM_FRONT,0.5,0.25>."),
    Question("b", "train", "reasoning", "Why so? A. Red. B. Green.", "A. Red."),
    Question("b", "train", "planning", "What then?", "Go on.", 2),
    Question("c", "val", "perception", "Which? A. Left. B. Right. C. Up.", "Final: {C. Up.}"),
)


def sequence(question):
    """Return the token ids, the images' runs, and where the answer starts."""
    text, runs = "<|im_start|>user\n", []
    ids = TOKENIZER.encode(text).ids
    for _ in range(question.images):
        begin = len(ids) + 1
        ids += TOKENIZER.encode("<img>" + "<IMG_CONTEXT>" * TOKENS + "</img>").ids
        runs.append((begin, begin + TOKENS))
    ids += TOKENIZER.encode(f"{question.text}<|im_end|>\n").ids
    start = len(ids)
    ids += TOKENIZER.encode(f"<|im_start|>assistant\n{question.answer}<|im_end|>\n").ids
    return np.array(ids, np.int32), np.array(runs, np.int32).reshape(-1, 2), start


def asked_rows(questions=QUESTIONS_ASKED):
    """Return (clip, split) -> the features of each of its questions."""
    clips = {}
    for question in questions:
        clips.setdefault((question.clip, question.split), []).append(question)
    return {clip: [_features(asked, place) for place in range(len(asked))] for clip, asked in clips.items()}


def recorded_rows(keys):
    """Return a clip of recorded samples, no two of which have images or a prefix in common."""
    rows = []
    for place, key in enumerate(keys):
        ids, runs, embeddings = inputs(key, "language")
        first, groups, penultimate = (
            tensors("maps")[f"{key}.{name}"].numpy() for name in ("p.first", "r.groups", "d.penult")
        )
        rows.append(
            {
                "capability": CAPABILITIES.index(SAMPLES[key]["capability"]),
                "frame_index": 10 + place,
                "question_id": 20 + place,
                "image_digests": np.zeros((len(runs), 32)),
                "token_ids": ids.numpy(),
                "answer_start": answer_start(key),
                "image_runs": runs.numpy(),
                "attention_first": first,
                "attention_penultimate": penultimate,
                "prefix_sample": place,
                "attention_groups": groups,
                "attention_groups_to_prefix": np.zeros((GROUPS, len(ids), 0)),
                "attention_groups_prefix": np.zeros((GROUPS, 0, 0)),
                "images_sample": place,
                "image_embeddings": embeddings.numpy(),
                "image_pixels": inputs(key, "all")[2].numpy(),
            }
        )
    return {("recorded", "val"): rows}


def write_pair(folder, clips, *, trainable="language", signals=CAPABILITIES, dtype="float32", lacking=()):
    """Write the teacher's dataset and the student's, without some of its weights; return their paths."""
    own = embedding_features(TOKENS, WIDTH, dtype) if trainable == "language" else pixel_features(SIDE)
    content = torch.tensor([*(SET / "tokenizer.json").read_bytes()], dtype=torch.uint8)
    assets = {"tokenizer": save({"tokenizer_json": content})}
    groups = [[layer, layer, layer + 1] for layer in range(GROUPS)]
    attention = {"student_layers": GROUPS + 1, "start": 0, "end": -2, "groups": groups}
    weights = {name: value for name, value in tensors("student_hf_names").items() if name not in lacking}
    return (
        write(
            folder / "teacher.zarr",
            (*QUESTIONS, *SEQUENCE, *attention_features(GROUPS, tuple(signals), dtype)),
            architecture={"model": model_arguments(), "attention": attention},
            assets=assets,
            clips=clips,
        ),
        write(
            folder / "student.zarr",
            (*QUESTIONS, *SEQUENCE, *own),
            architecture={"model": model_arguments()},
            assets=assets | {"student": save(weights)},
            clips=clips,
        ),
    )


def _features(asked, place):
    """Return all features of one question. Attention and images are random.

    Questions of a clip with as many images have the same ones, and share their prefix.
    """
    question = asked[place]
    ids, runs, start = sequence(question)
    first = next(i for i, other in enumerate(asked) if other.images == question.images)
    rng = np.random.default_rng([ord(question.clip), first])
    tokens, vision = len(ids), TOKENS * question.images
    prefix = int(runs[-1, 1]) + 1
    images = question.images if place == first else 0
    pixels = rng.integers(0, 256, (question.images, SIDE, SIDE, 3))
    embeddings = rng.normal(size=(question.images, TOKENS, WIDTH))
    shared = np.tril(rng.random((GROUPS, prefix, prefix)) / prefix)
    rng = np.random.default_rng([ord(question.clip), first, place])
    return {
        "capability": CAPABILITIES.index(question.capability),
        "frame_index": 0,
        "question_id": place,
        "image_digests": rng.integers(0, 256, (question.images, 32)),
        "token_ids": ids,
        "answer_start": start,
        "image_runs": runs,
        "attention_first": rng.random((tokens - vision, vision)) / tokens,
        "attention_penultimate": rng.random((tokens - vision, vision)) / tokens,
        "prefix_sample": first,
        "attention_groups": np.tril(rng.random((GROUPS, tokens - prefix, tokens - prefix)) / tokens),
        "attention_groups_to_prefix": rng.random((GROUPS, tokens - prefix, prefix)) / tokens,
        "attention_groups_prefix": shared if place == first else shared[:, :0, :0],
        "images_sample": first,
        "image_embeddings": embeddings[:images],
        "image_pixels": pixels[:images],
    }

"""A trained student as a folder that transformers loads, compared with the student before it is kept."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from safetensors.torch import save_file

from cache_schema.errors import CheckpointError
from cache_schema.vocabulary.attention import (
    ANSWER_START,
    CAPABILITY,
    IMAGE_RUNS,
    TOKEN_IDS,
)
from student.drive_kd.datasets import starting_weights, student_dataset
from student.drive_kd.evaluation.texts import Texts
from student.drive_kd.model import normalised
from student.drive_kd.sample import image_feature, samples_of
from student.loading.batches import LatentSamples

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn
    from transformers import InternVLForConditionalGeneration

    from student.drive_kd.model import DriveKd
    from student.drive_kd.sample import Sample
    from student.loading.dataset import Dataset

DESCRIPTION = "teachonce.json"
TOLERANCE = 1e-4
"""Largest difference of a logit, as a fraction of the largest: both compute in float32."""


def export_folder(model: nn.Module, dataset: Dataset, folder: Path, description: str) -> str:
    """Write a student as a folder of transformers' InternVL; an ``Export``.

    It holds ``config.json``, ``generation_config.json``, ``model.safetensors`` in float32 and
    ``tokenizer.json``, and the description of the run in ``teachonce.json``. Vision tower and projector are
    those of the dataset's checkpoint where they were frozen. There is no configuration of a processor:
    InternVL3's own tiles images, and resizes them otherwise than this student has seen them.

    Raises:
        CheckpointError: The folder, loaded by transformers, does not compute what the student computes.
        RequestError: The dataset holds no sample, or not the checkpoint that the student began with.
    """
    from transformers import GenerationConfig

    student = cast("DriveKd", model)
    texts = Texts(dataset)
    folder.mkdir()
    config = copy.deepcopy(student.config)
    config.architectures, config.dtype = ["InternVLForConditionalGeneration"], torch.float32
    config.save_pretrained(folder)
    GenerationConfig(eos_token_id=texts.stop, pad_token_id=texts.stop).save_pretrained(folder)
    weights = {name: value.float().contiguous() for name, value in _weights(student, dataset).items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "tokenizer.json").write_bytes(texts.file)
    (folder / DESCRIPTION).write_text(description)
    difference = _difference(folder, student, _first_sample(student, dataset), weights)
    if not difference <= TOLERANCE:
        raise CheckpointError(
            f"transformers' logits differ from the student's by {difference:.1e} of the largest",
            expected=f"at most {TOLERANCE:.0e}",
            repair="install the version of transformers that constraints.txt names",
        )
    return f"transformers' logits and the student's differ by {difference:.1e} (relative)"


def _weights(student: DriveKd, dataset: Dataset) -> dict[str, Tensor]:
    """Return all weights: the student's, and what was frozen from where it began."""
    own = student.state_dict()
    if student.trainable == "all":
        return own
    return {**starting_weights(student_dataset(dataset)), **own}


def _first_sample(student: DriveKd, dataset: Dataset) -> Sample:
    features = (TOKEN_IDS, IMAGE_RUNS, ANSWER_START, CAPABILITY, image_feature(student.trainable))
    samples = LatentSamples(dataset, "all", features, device=torch.device("cpu"))
    return next(samples_of(samples.read(np.arange(1)), student.trainable))


@torch.no_grad()
def _difference(folder: Path, student: DriveKd, sample: Sample, weights: dict[str, Tensor]) -> float:
    """Load a folder, and return the largest difference of a logit, as a fraction of the largest.

    Of a frozen vision tower the dataset has the output only: there, its weights are compared.

    Raises:
        CheckpointError: transformers does not load these weights as they are.
    """
    loaded = _loaded(folder, weights)
    ids, runs, images = sample.token_ids, sample.image_runs, sample.images
    if student.trainable == "all":
        output = loaded(input_ids=ids[None], pixel_values=normalised(images))
    else:
        output = loaded(inputs_embeds=student.embed(ids, runs, images)[None])
    expected = student(ids, runs, images).logits
    difference = (output.logits[0].float() - expected).abs().max() / expected.abs().max()
    return float(difference)


def _loaded(folder: Path, weights: dict[str, Tensor]) -> InternVLForConditionalGeneration:
    from transformers import InternVLForConditionalGeneration
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        loaded = InternVLForConditionalGeneration.from_pretrained(folder).eval()
    finally:
        if bars:
            logging.enable_progress_bar()
    found = loaded.state_dict()
    wrong = sorted(
        name
        for name in weights.keys() | found.keys()
        if name not in weights or name not in found or not torch.equal(weights[name], found[name])
    )
    if wrong:
        raise CheckpointError(
            f"transformers loads {len(wrong)} weights otherwise than they are written, such as {wrong[0]}",
            expected="the weights of an InternVL3 under its names, all of them",
            repair="install the version of transformers that constraints.txt names",
        )
    return loaded

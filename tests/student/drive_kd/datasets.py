"""Tiny datasets of a teacher and of the recorded student, made of random questions and a random teacher.

The teacher is a network of the same kind with more layers; its attention is computed once, with the tokens
and images that the student reads.

Dimension letters: N token, n image, L group of layers, P token of the prefix.
"""

import functools

import numpy as np
import torch
from safetensors.torch import save
from transformers import InternVLConfig

from cache_schema.dataset.writer import DatasetWriter
from cache_schema.format.ledger import ClipInfo
from cache_schema.format.manifest import AssetSpec, CodeIdentity, DataIdentity, Manifest, TeacherIdentity
from cache_schema.storage.atomic_io import sha256_bytes
from cache_schema.vocabulary.attention import (
    CAPABILITIES,
    PIXEL_MEAN,
    PIXEL_STD,
    QUESTIONS,
    SEQUENCE,
    attention_features,
    embedding_features,
    pixel_features,
)
from student.drive_kd.model import DriveKd, text_and_vision
from tests.student.drive_kd.recorded import META, model_arguments, tensors

TOKENS, SIDE, WIDTH = META["tokens_per_image"], META["image_size"], META["student"]["D"]
DEPTH, TEACHER_DEPTH = META["student"]["L"], META["student"]["L"] + 2
GROUPS = [[layer, layer, layer + 2] for layer in range(DEPTH - 1)]
CLIPS = {"a": ("train", 6), "b": ("train", 5), "c": ("val", 3)}
"""Name -> split and samples; two questions about every frame, of one image each or two."""
IDS = META["specials"]

PREPROCESSING = {
    "image": {
        "size": SIDE,
        "resample": "bicubic",
        "mean": list(PIXEL_MEAN),
        "std": list(PIXEL_STD),
        "tiles": 1,
    },
    "layout": "intended",
    "tokenizer": "sha256:none",
}


@functools.cache
def teacher():
    arguments = model_arguments()
    arguments["text_config"]["num_hidden_layers"] = TEACHER_DEPTH
    torch.manual_seed(5)
    return DriveKd(InternVLConfig(**arguments), "language")


@functools.cache
@torch.no_grad()
def values_of(clip):
    """Return the values of every feature of a clip's samples, all of them in float32."""
    rng = np.random.default_rng(sum(clip.encode()))
    samples, model = [], teacher()
    for number in range(CLIPS[clip][1]):
        first = number - number % 2
        if number == first:
            images = 1 + number % 4 // 2
            pixels = rng.integers(0, 256, (images, SIDE, SIDE, 3), dtype=np.uint8)
            embeddings = rng.normal(size=(images, TOKENS, WIDTH)).astype(np.float16)
        text = functools.partial(rng.integers, 1, min(IDS.values()))
        header = [IDS["<|im_start|>"], 5, 6]
        for _ in range(images):
            header += [IDS["<img>"], *[IDS["<IMG_CONTEXT>"]] * TOKENS, IDS["</img>"]]
        question, answer = text(size=rng.integers(5, 20)), text(size=rng.integers(5, 20))
        ids = [*header, *question, IDS["<|im_end|>"], IDS["<|im_start|>"], 7, *answer, IDS["<|im_end|>"]]
        runs = np.array(
            [[4 + (TOKENS + 2) * image + step for step in (0, TOKENS)] for image in range(images)]
        )
        attention = model(
            torch.tensor(ids),
            torch.from_numpy(runs),
            torch.from_numpy(embeddings).float(),
            layers=range(TEACHER_DEPTH),
        ).attention
        rows, columns = text_and_vision(torch.from_numpy(runs), len(ids), images * TOKENS)
        first_block, block = (attention[layer][rows][:, columns] for layer in (0, TEACHER_DEPTH - 2))
        groups = torch.stack(
            [torch.stack([attention[i] for i in range(begin, end + 1)]).mean(0) for _, begin, end in GROUPS]
        ).numpy()
        shared, holder = len(header), number == first
        samples.append(
            {
                "capability": number % len(CAPABILITIES),
                "frame_index": number // 2,
                "question_id": number,
                "image_digests": rng.integers(0, 256, (images, 32), dtype=np.uint8),
                "token_ids": np.array(ids, np.int32),
                "answer_start": len(header) + len(question) + 1,
                "image_runs": runs.astype(np.int32),
                "images_sample": first,
                "prefix_sample": first,
                "image_embeddings": embeddings if holder else embeddings[:0],
                "image_pixels": pixels if holder else pixels[:0],
                "attention_first": first_block.numpy(),
                "attention_penultimate": block.numpy(),
                "attention_groups": groups[:, shared:, shared:],
                "attention_groups_to_prefix": groups[:, shared:, :shared],
                "attention_groups_prefix": groups[:, : shared * holder, : shared * holder],
            }
        )
    return samples


def write(path, features, *, architecture, assets=None, preprocessing=PREPROCESSING, clips=None):
    """Write a dataset of these features of clips: name and split -> values of each sample; by default all."""
    clips = clips or {(name, split): values_of(name) for name, (split, _) in CLIPS.items()}
    contents = {f"{name}.safetensors": content for name, content in (assets or {}).items()}
    manifest = Manifest(
        features=features,
        teacher=TeacherIdentity(
            name=path.stem,
            weights="random:0",
            precision="fp32",
            preprocessing=preprocessing,
            architecture=architecture,
        ),
        data=DataIdentity(name="questions", licence="CC0-1.0", frame_rate_hz=1.0),
        code=CodeIdentity(teachonce="0", libraries={}),
        assets=tuple(
            AssetSpec(name=name, sha256=sha256_bytes(content), nbytes=len(content))
            for name, content in contents.items()
        ),
    )
    with DatasetWriter(path, manifest, contents) as writer:
        for (name, split), samples in clips.items():
            clip = writer.clip(ClipInfo(name=name, frames=len(samples), split=split))
            clip.append({spec.name: _column(spec, samples) for spec in features})
            clip.commit(wall_s=1.0)
    return path


def _column(spec, samples):
    values = [np.asarray(sample[spec.name], spec.dtype) for sample in samples]
    return values if spec.ragged else np.array(values)


def write_teacher(
    path, *, dtype="float32", attention=None, preprocessing=PREPROCESSING, capabilities=CAPABILITIES
):
    """Write a dataset with the teacher's attention."""
    described = {"student_layers": DEPTH, "start": 0, "end": -2, "groups": GROUPS, **(attention or {})}
    return write(
        path,
        (*QUESTIONS, *SEQUENCE, *attention_features(len(GROUPS), capabilities, dtype)),
        architecture={"model": model_arguments(), "attention": described},
        preprocessing=preprocessing,
    )


def write_student(path, *, images="embeddings"):
    """Write a dataset with the recorded student, and images as it sees them."""
    seen = embedding_features(TOKENS, WIDTH) if images == "embeddings" else pixel_features(SIDE)
    weights = {name: value.bfloat16() for name, value in tensors("student_hf_names").items()}
    return write(
        path,
        (*QUESTIONS, *SEQUENCE, *seen),
        architecture={"model": model_arguments()},
        assets={"student": save(weights)},
    )

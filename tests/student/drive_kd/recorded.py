"""The recorded set: its student, its samples, and its flat vectors under the reference's names.

Dimension letters: N token, T token that stands for no image, V token that does, L group of layers.
"""

import functools
import json
import re

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import InternVLConfig

from cache_schema.vocabulary.attention import CAPABILITIES, PIXEL_MEAN, PIXEL_STD
from student.drive_kd.model import DriveKd
from student.drive_kd.sample import Sample, image_feature
from student.loading.ragged import Ragged
from tests.paths import GOLDEN

SET = GOLDEN / "drive_kd"
META = json.loads((SET / "meta.json").read_text())
SAMPLES = {sample["key"]: sample for sample in META["samples"]}
WITH_MAPS = [key for key in SAMPLES if f"{key}.r.groups" in load_file(SET / "maps.safetensors")]
SLOTS = {"p": "perception", "r": "reasoning", "d": "planning"}
TERMS = {"ce": "answer_ce", **SLOTS}


@functools.cache
def tensors(name):
    return load_file(SET / f"{name}.safetensors")


def model_arguments():
    """Return what transformers' InternVLConfig is made of."""
    sizes, ids = META["student"], META["specials"]
    text = {
        "model_type": "qwen2",
        "hidden_size": sizes["D"],
        "num_hidden_layers": sizes["L"],
        "num_attention_heads": sizes["H"],
        "num_key_value_heads": sizes["KV"],
        "intermediate_size": sizes["F"],
        "vocab_size": META["vocab"],
        "rms_norm_eps": META["rms_norm_eps"],
        "rope_parameters": {"rope_type": "default", "rope_theta": META["rope_theta"]},
        "tie_word_embeddings": False,
    }
    vision = {
        "hidden_size": sizes["VD"],
        "num_hidden_layers": sizes["VL"],
        "num_attention_heads": sizes["VH"],
        "intermediate_size": sizes["VF"],
        "image_size": [META["image_size"]] * 2,
        "patch_size": [META["patch_size"]] * 2,
        "attention_bias": True,
        "layer_norm_eps": META["layer_norm_eps"],
    }
    return {
        "text_config": text,
        "vision_config": vision,
        "image_token_id": ids["<IMG_CONTEXT>"],
        "image_seq_length": META["tokens_per_image"],
        "tie_word_embeddings": False,
    }


def student(trainable):
    """Return the recorded student with its initial weights."""
    model = DriveKd(InternVLConfig(**model_arguments()), trainable)
    stored = tensors("student_hf_names")
    model.load_state_dict({name: stored[name] for name in model.state_dict()})
    return model


def image_runs(is_image):
    """Return where runs of image tokens begin and end, (n, 2): every image's own."""
    places, tokens = torch.nonzero(is_image)[:, 0], META["tokens_per_image"]
    return torch.stack([places[::tokens], places[tokens - 1 :: tokens] + 1], dim=1)


def inputs(key, trainable):
    """Return the token ids (N), the images' runs (n, 2), and their embeddings or pixels of a sample."""
    stored = tensors("inputs")
    runs = image_runs(stored[f"{key}.is_image"].bool())
    # Images are recorded once an item, whatever the layout of its prompt.
    images = next(k for k, of in SAMPLES.items() if of["item"] == SAMPLES[key]["item"])
    if trainable == "language":
        embedded = stored[f"{images}.student_image_embeds"]
        return stored[f"{key}.token_ids"].long(), runs, embedded.reshape(len(runs), -1, embedded.shape[-1])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    pixels = ((stored[f"{images}.pixel_values"] * std + mean) * 255).round().byte()
    return stored[f"{key}.token_ids"].long(), runs, pixels.permute(0, 2, 3, 1)


def sample(key, trainable, *, shared):
    """Return a sample with the teacher's recorded maps, split as if ``shared`` tokens were a prefix."""
    token_ids, runs, images = inputs(key, trainable)
    maps = tensors("maps")
    groups = maps[f"{key}.r.groups"]
    targets = {
        "attention_first": maps[f"{key}.p.first"],
        "attention_penultimate": maps[f"{key}.d.penult"],
        "attention_groups_prefix": groups[:, :shared, :shared],
        "attention_groups_to_prefix": groups[:, shared:, :shared],
        "attention_groups": groups[:, shared:, shared:],
    }
    return Sample(token_ids, runs, images, answer_start(key), SAMPLES[key]["capability"], targets)


def ragged(values):
    shape = torch.tensor([values.shape])
    return Ragged(values.contiguous().flatten(), shape)


def batch(key, trainable, *, shared):
    """Return a sample as a batch of one."""
    one = sample(key, trainable, shared=shared)
    return {
        "token_ids": ragged(one.token_ids),
        "image_runs": ragged(one.image_runs),
        "answer_start": torch.tensor([one.answer_start]),
        "capability": torch.tensor([CAPABILITIES.index(one.capability)]),
        image_feature(trainable): ragged(one.images),
        **{name: ragged(value) for name, value in one.targets.items()},
    }


def pi_rows():
    return dict(zip(CAPABILITIES, META["pi"], strict=True))


def answer_start(key):
    labels = tensors("inputs")[f"{key}.labels"]
    return int((labels != -100).nonzero()[0])


VISION = {
    "embeddings.class_embedding": "embeddings.cls_token",
    "embeddings.position_embedding": "embeddings.position_embeddings",
    "embeddings.patch_embedding": "embeddings.patch_embeddings.projection",
    "encoder.layers": "encoder.layer",
    "attn.proj": "attention.projection_layer",
    "attn": "attention",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "ls1": "lambda_1",
    "ls2": "lambda_2",
}


PROJECTOR = {"0": "layer_norm", "1": "linear_1", "3": "linear_2"}


def names_of(remote):
    """Return the names in transformers of the reference's parameter: several, where it is split by rows."""
    if remote == "language_model.lm_head.weight":
        return ["lm_head.weight"]
    if remote.startswith("language_model.model."):
        return ["model.language_model." + remote.removeprefix("language_model.model.")]
    if remote.startswith("mlp1"):
        _, number, kind = remote.split(".")
        return [f"model.multi_modal_projector.{PROJECTOR[number]}.{kind}"]
    name = remote.removeprefix("vision_model.")
    for theirs, ours in VISION.items():
        name = re.sub(rf"(^|\.){re.escape(theirs)}(\.|$)", rf"\g<1>{ours}\g<2>", name)
    name = f"model.vision_tower.{name}"
    return [name.replace("qkv", f"{part}_proj") for part in "qkv"] if "qkv" in name else [name]


def flat(values):
    """Return tensors by their names in transformers as one vector in the reference's order; None as zeros."""
    pieces = []
    for remote, shape in META["parameters"]:
        found = [values.get(name) for name in names_of(remote)]
        pieces.append(
            torch.zeros(int(np.prod(shape)))
            if found[0] is None
            else torch.cat([value.detach().flatten() for value in found])
        )
    return torch.cat(pieces)


def comparable():
    """Return which elements of a flat vector are compared: not biases whose gradient is rounding alone."""
    return torch.cat(
        [
            torch.full((int(np.prod(shape)),), not name.endswith("attn.qkv.bias"))
            for name, shape in META["parameters"]
        ]
    )


def relative(found, expected):
    """Return the largest difference, relative to the largest magnitude."""
    found, expected = (torch.as_tensor(values).detach().double() for values in (found, expected))
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())

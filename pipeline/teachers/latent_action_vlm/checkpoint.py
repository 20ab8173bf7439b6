"""Folders of Qwen2.5-VL, as released or as transformers writes them: configuration, tokenizer and weights.

Weights are read one at a time and strictly checked, under the names of transformers'
``Qwen2_5_VLForConditionalGeneration``; those of the release are older. Both spellings have the same digest.
"""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import Qwen2_5_VLConfig

from cache_schema.errors import CheckpointError
from pipeline.teachers.latent_action_vlm.images import MERGED, PATCH, REPEATED
from pipeline.teachers.safetensors_folder import opened, unreadable, weight_files
from pipeline.teachers.weights import is_finite, refuse_misfits, refuse_placeholder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor
    from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import (
        Qwen2_5_VLTextConfig,
        Qwen2_5_VLVisionConfig,
    )

    from pipeline.teachers.latent_action_vlm.options import LatentActionOptions
    from pipeline.teachers.latent_action_vlm.prompt import PromptTokenizer

Shapes = dict[str, tuple[int, ...]]

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
SPELLINGS = (
    (r"^visual\.", "model.visual."),
    (r"^model\.(?!visual\.|language_model\.)", "model.language_model."),
)
"""Names of the release -> those of today."""


@dataclass(frozen=True)
class FileTokenizer:
    """A tokenizer of a file; implements ``PromptTokenizer``."""

    tokenizer: Tokenizer

    def encode(self, text: str) -> list[int]:
        """See ``PromptTokenizer``."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def name_of(self, token: int) -> str | None:
        """See ``PromptTokenizer``."""
        return self.tokenizer.id_to_token(token)


def read_config(folder: Path) -> Qwen2_5_VLConfig:
    """Read the sizes of a model.

    Raises:
        CheckpointError: The file is missing or unreadable, or describes another model.
    """
    file = folder / CONFIG
    refuse_placeholder(file)
    expected = "the folder of a Qwen2.5-VL, with config.json, tokenizer.json and .safetensors files"
    try:
        described = json.loads(file.read_bytes())
        kind = described.get("model_type")
        config = Qwen2_5_VLConfig(**described) if kind == "qwen2_5_vl" else None
    except Exception as error:  # the library checks values by classes of its own
        raise CheckpointError(
            f"{file} cannot be read: {error}",
            expected=expected,
            repair="download the whole repository, such as Qwen/Qwen2.5-VL-3B-Instruct, and give its folder",
        ) from error
    if config is None:
        raise CheckpointError(
            f"{file} describes a model of type {kind!r}",
            expected=f"'qwen2_5_vl': {expected}",
            repair="give the folder of a Qwen2.5-VL, or choose another --teacher",
        )
    vision: Qwen2_5_VLVisionConfig = config.vision_config  # ty: ignore[invalid-assignment]
    cut = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
    if cut != (PATCH, MERGED, REPEATED):
        raise CheckpointError(
            f"the model of {file} cuts images otherwise: patch, merge and temporal patch sizes are {cut}",
            expected=f"{(PATCH, MERGED, REPEATED)}, as in every released Qwen2.5-VL",
            repair="give the folder of a released model, or of one that was tuned from it",
        )
    return config


def read_tokenizer(folder: Path) -> FileTokenizer:
    """Read a tokenizer.

    Raises:
        CheckpointError: The file is missing, or is none.
    """
    file = folder / TOKENIZER
    refuse_placeholder(file)
    try:
        return FileTokenizer(Tokenizer.from_str(file.read_text(encoding="utf-8")))
    except Exception as error:  # the library raises no narrower one
        raise CheckpointError(
            f"{file} cannot be read: {error}",
            expected="the tokenizer of a Qwen2.5-VL",
            repair="copy tokenizer.json of the model that the weights were tuned from into the folder",
        ) from error


def check_codes(
    options: LatentActionOptions, config: Qwen2_5_VLConfig, tokenizer: PromptTokenizer, where: object
) -> None:
    """Check that a model has rows for all codes, which mean nothing else.

    Raises:
        CheckpointError: Its embedding is too short, or its tokenizer has another token there.
    """
    first, last = options.code_ids[0], options.code_ids[-1]
    text: Qwen2_5_VLTextConfig = config.text_config  # ty: ignore[invalid-assignment]
    rows = text.vocab_size
    if last >= rows:
        raise CheckpointError(
            f"the embedding of {where} has {rows} rows, and codes are tokens {first} to {last}",
            expected=f"at least {last + 1} rows",
            repair="give a model that was taught these codes, or choose others by --set first_code=...",
        )
    for code, token in enumerate(options.code_ids):
        name = tokenizer.name_of(token)
        if name not in (None, options.code_token.format(code)):
            raise CheckpointError(
                f"the tokenizer of {where} has {name!r} at {token}, where code {code} should be",
                expected=f"free ids from {first} to {last}"
                + (f", or {options.code_token.format(code)!r}" if options.code_token else ""),
                repair="choose free ids by --set first_code=..., or the preset of this model",
            )


def transformers_name(stored: str) -> str:
    """Return today's name of a weight that is stored under a name of today or of the release."""
    for pattern, replacement in SPELLINGS:
        stored = re.sub(pattern, replacement, stored)
    return stored


def read_weights(folder: Path, shapes: Shapes) -> Iterator[tuple[str, Tensor]]:
    """Check the weights of a folder against a model, then yield them sorted by name, as they are stored.

    Raises:
        CheckpointError: A file is missing or damaged; weights are missing, unexpected, misshapen or stored
            twice, in one error that names them all; later, one that is yielded is not finite.
    """
    with ExitStack() as stack:
        files = {file: opened(file, stack) for file in weight_files(folder)[0]}
        found: dict[str, tuple[Path, str]] = {}
        faults = []
        for file, tensors in files.items():
            for stored in tensors.keys():  # noqa: SIM118 - it is no dict
                name, shape = transformers_name(stored), tuple(tensors.get_slice(stored).get_shape())
                if name not in shapes:
                    # A tied head is a copy of the embedding, which some programs write.
                    if name != "lm_head.weight":
                        faults.append(f"unexpected: {stored} {list(shape)}")
                elif name in found:
                    faults.append(f"stored twice: {name}, as {found[name][1]} and as {stored}")
                elif shape != shapes[name]:
                    faults.append(f"misshapen: {stored} is {list(shape)}, not {list(shapes[name])}")
                found[name] = file, stored
        faults += [f"missing: {name} {list(shape)}" for name, shape in shapes.items() if name not in found]
        _refuse(folder, faults)
        for name in sorted(shapes):
            file, stored = found[name]
            try:
                weight = files[file].get_tensor(stored)
            except SafetensorError as error:
                raise unreadable(file, error) from error
            if not weight.is_floating_point() or not is_finite(weight):
                _refuse(folder, [f"not finite: {stored}"])
            yield name, weight


def _refuse(where: object, faults: list[str]) -> None:
    refuse_misfits(
        where,
        faults,
        expected="exactly the tensors of the model that its config.json describes, all of them finite",
        repair="download the weights again; adapters must be merged into them first",
    )

"""Reader of InternVL3's weights: folders of ``OpenGVLab/InternVL3-*``, and of the ``-hf`` repositories.

All of them give the same tensors under the same names, strictly checked, so that all have the same digest.

Source: spec Drive-KD 2.1.
"""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from safetensors import SafetensorError

from cache_schema.errors import CheckpointError
from cache_schema.progress import SILENT
from pipeline.teachers.internvl3.model.network import place, random_weights, shapes
from pipeline.teachers.internvl3.model.sizes import check_sizes
from pipeline.teachers.internvl3.tokenizer import read_tokenizer
from pipeline.teachers.safetensors_folder import INDEX, opened, unreadable, weight_files
from pipeline.teachers.weights import (
    Fingerprint,
    is_finite,
    random_origin,
    refuse_misfits,
    refuse_placeholder,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import torch
    from torch import Tensor
    from transformers import InternVLModel

    from cache_schema.progress import Progress
    from pipeline.teachers.internvl3.model.network import Shapes
    from pipeline.teachers.internvl3.model.sizes import InternVLSizes
    from pipeline.teachers.internvl3.tokenizer import QuestionTokenizer

CONFIG = "config.json"
TYPES = ("F32", "F16", "BF16")
"""Types that weights are stored in, as safetensors calls them."""

_SPELLINGS = (
    (r"^language_model\.model\.", "model.language_model."),
    (r"^language_model\.lm_head\.", "lm_head."),
    (r"^(vision_tower|multi_modal_projector)\.", r"model.\1."),
    (r"^mlp1\.0\.", "model.multi_modal_projector.layer_norm."),
    (r"^mlp1\.1\.", "model.multi_modal_projector.linear_1."),
    (r"^mlp1\.3\.", "model.multi_modal_projector.linear_2."),
    (r"^vision_model\.encoder\.layers\.", "model.vision_tower.encoder.layer."),
    (r"^vision_model\.", "model.vision_tower."),
    (r"^(model\.vision_tower\.embeddings)\.class_embedding$", r"\1.cls_token"),
    (r"^(model\.vision_tower\.embeddings)\.position_embedding$", r"\1.position_embeddings"),
    (r"^(model\.vision_tower\.embeddings)\.patch_embedding\.", r"\1.patch_embeddings.projection."),
    (r"^(model\.vision_tower\.encoder\.layer\.\d+)\.attn\.proj\.", r"\1.attention.projection_layer."),
    (r"^(model\.vision_tower\.encoder\.layer\.\d+)\.attn\.", r"\1.attention."),
    (r"^(model\.vision_tower\.encoder\.layer\.\d+)\.norm1\.", r"\1.layernorm_before."),
    (r"^(model\.vision_tower\.encoder\.layer\.\d+)\.norm2\.", r"\1.layernorm_after."),
    (r"^(model\.vision_tower\.encoder\.layer\.\d+)\.ls([12])$", r"\1.lambda_\2"),
)
"""Names of the model's own program, and of the first ``-hf`` copies, to transformers' names."""


class Stored(NamedTuple):
    """Where a weight is stored: as one of some equal parts, by rows, of a tensor of a file."""

    file: Path
    name: str
    part: int = 0
    parts: int = 1


def transformers_names(stored: str) -> tuple[str, ...]:
    """Return transformers' names of what is stored under a name: several for parts that are stored as one."""
    name = stored
    for pattern, replacement in _SPELLINGS:
        name = re.sub(pattern, replacement, name)
    if ".attention.qkv." in name:
        return tuple(name.replace(".qkv.", f".{part}_proj.") for part in "qkv")
    return (name,)


def sources(stored: Mapping[str, tuple[int, ...]], wanted: Shapes, where: object) -> dict[str, tuple]:
    """Return for every weight of a model the stored tensor that holds it, and which part of how many it is.

    Args:
        stored: Shape of every tensor of a checkpoint, by its name there.
        wanted: Shape of every weight of the model.
        where: The checkpoint, for the message.

    Raises:
        CheckpointError: Tensors are missing, unexpected, misshapen or stored twice. One error names them all.
    """
    found: dict[str, tuple[str, int, int]] = {}
    faults = []
    for name, shape in stored.items():
        names = transformers_names(name)
        for part, known in enumerate(names):
            if known not in wanted:
                faults.append(f"unexpected: {name} {list(shape)}")
            elif known in found:
                faults.append(f"stored twice: {known}, as {found[known][0]} and as {name}")
            elif (needed := (len(names) * wanted[known][0], *wanted[known][1:])) != shape:
                faults.append(f"misshapen: {name} is {list(shape)}, not {list(needed)}")
            found[known] = (name, part, len(names))
    faults += [f"missing: {name} {list(shape)}" for name, shape in wanted.items() if name not in found]
    refuse_misfits(where, faults)
    return found


@dataclass(frozen=True)
class Checkpoint:
    """A folder whose sizes and names have been checked; its values have not."""

    folder: Path
    sizes: InternVLSizes
    tokenizer: QuestionTokenizer
    weights: Mapping[str, Stored]
    """By transformers' name."""

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every weight in the type that it is stored in, sorted by name; only one is held at a time.

        Raises:
            CheckpointError: A file is damaged, or a weight is not finite.
        """
        with ExitStack() as stack:
            files: dict[Path, Any] = {}
            for name, (file, stored, part, parts) in sorted(self.weights.items()):
                if file not in files:
                    files[file] = opened(file, stack)
                try:
                    if parts == 1:
                        tensor = files[file].get_tensor(stored)
                    else:
                        whole = files[file].get_slice(stored)
                        rows = whole.get_shape()[0] // parts
                        tensor = whole[part * rows : (part + 1) * rows]
                except (OSError, SafetensorError) as error:
                    raise unreadable(file, error) from error
                if not is_finite(tensor):
                    refuse_misfits(self.folder, [f"not finite: {stored}"])
                yield name, tensor


def open_checkpoint(folder: Path, sizes: InternVLSizes) -> Checkpoint:
    """Check a folder against the sizes of a model.

    Raises:
        CheckpointError: Files are missing or unreadable; config.json, tokenizer or tensors do not fit.
    """
    config = folder / CONFIG
    refuse_placeholder(config)
    try:
        described = json.loads(config.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{config} cannot be read: {error}",
            expected="the folder of an InternVL3, with config.json, tokenizer and .safetensors files",
            repair="download the whole repository, such as OpenGVLab/InternVL3-8B, and give its folder",
        ) from error
    check_sizes(described, sizes, config)
    tokenizer = read_tokenizer(folder)
    if tokenizer.image_context != sizes.image_token or tokenizer.size > sizes.language.vocabulary:
        raise CheckpointError(
            f"the tokenizer of {folder} has {tokenizer.size} tokens, and <IMG_CONTEXT> is "
            f"{tokenizer.image_context}",
            expected=f"at most {sizes.language.vocabulary} tokens, <IMG_CONTEXT> {sizes.image_token}",
            repair="take the tokenizer of the checkpoint itself",
        )
    files = _stored(folder)
    names = {name: shape for name, (_, shape) in files.items()}
    found = sources(names, shapes(sizes), folder)
    weights = {name: Stored(files[stored][0], stored, *part) for name, (stored, *part) in found.items()}
    return Checkpoint(folder, sizes, tokenizer, weights)


def _stored(folder: Path) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """Return file and shape of every tensor of a folder's .safetensors files, by its name there."""
    files, promised = weight_files(folder)
    stored: dict[str, tuple[Path, tuple[int, ...]]] = {}
    for file in files:
        with ExitStack() as stack:
            tensors = opened(file, stack)
            for name in tensors.keys():  # noqa: SIM118 - it is no dict
                tensor = tensors.get_slice(name)
                if (dtype := tensor.get_dtype()) not in TYPES:
                    refuse_misfits(folder, [f"misshapen: {name} is of type {dtype}"])
                stored[name] = file, tuple(tensor.get_shape())
    missing = [f"missing: {name}, in spite of {INDEX}" for name in promised if name not in stored]
    refuse_misfits(folder, missing)
    return stored


@dataclass(frozen=True)
class RandomWeights:
    """Weights of no training, with the tokenizer that this package holds."""

    sizes: InternVLSizes
    seed: int
    device: str
    """Where they are drawn. Another kind of device draws other weights."""
    tokenizer: QuestionTokenizer

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every weight in float32, sorted by name."""
        return random_weights(self.sizes, self.seed, self.device)


def load_weights(
    model: InternVLModel | None,
    weights: Checkpoint | RandomWeights,
    device: str,
    dtype: torch.dtype,
    progress: Progress = SILENT,
) -> str:
    """Give a model its weights, one at a time.

    Args:
        model: As ``network.build`` returns it; what it has no use for is read, and dropped. None: all is.
        weights: A checkpoint, or random ones.
        device: Where it runs.
        dtype: What it computes in.
        progress: Counts tensors.

    Returns:
        How a teacher's identity records them: the digest of all weights of the checkpoint in float32, whether
        the model needs them or not; or the seed of random ones.

    Raises:
        CheckpointError: A file is damaged, or a weight is not finite.
    """
    progress.expect(len(shapes(weights.sizes)))
    fingerprint = Fingerprint()
    for name, weight in weights.tensors():
        if isinstance(weights, Checkpoint):
            fingerprint.add(name, weight.float())
        if model is not None:
            place(model, name, weight, device, dtype)
        progress.advance()
    if isinstance(weights, Checkpoint):
        return str(fingerprint)
    return random_origin(weights.seed, weights.device)

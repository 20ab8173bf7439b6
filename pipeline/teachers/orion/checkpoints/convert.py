"""Conversion of a checkpoint to sharded safetensors: adapters merged, copies and unused tensors left out."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import save_file

from cache_schema.errors import RequestError
from cache_schema.progress import SILENT
from cache_schema.storage.atomic_io import follow_umask, rename_durably, sync_tree
from cache_schema.storage.paths import absolute, refuse_inside_store
from pipeline.teachers.orion.checkpoints.reader import CONFIG, INDEX, as_json, read_weights
from pipeline.teachers.orion.checkpoints.tensors import teacher_shapes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from cache_schema.progress import Progress
    from pipeline.teachers.orion.network.config import OrionConfig

SHARD_BYTES = 5 * 10**9
"""Largest file of a converted checkpoint."""


def convert(
    checkpoint: Path,
    out: Path,
    *,
    config: OrionConfig,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress = SILENT,
) -> None:
    """Write the tensors a teacher needs to a folder that ``read_weights`` opens.

    Args:
        checkpoint: ``Orion.pth``.
        out: As of ``write_folder``, and the further arguments.
        config: Sizes of the model.
        shard_bytes: Largest file.
        progress: Counts tensors.

    Raises:
        CheckpointError: The checkpoint does not fit the sizes.
        RequestError: ``out`` exists, is inside a dataset, or the disk refuses.
    """
    out = _new(out)
    weights = read_weights(checkpoint, config)
    write_folder(weights, out, config=config, shard_bytes=shard_bytes, progress=progress)


def write_folder(
    weights: Iterator[tuple[str, Tensor]],
    out: Path,
    *,
    config: OrionConfig,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress = SILENT,
) -> None:
    """Write a teacher's tensors to a folder that ``read_weights`` opens.

    The folder appears under its name when it is whole; a run that is killed leaves ``OUT.partial``, which
    the next run clears.

    Args:
        weights: All of ``teacher_shapes``, sorted by name.
        out: Folder to make; must not exist.
        config: Sizes of the model.
        shard_bytes: Largest file.
        progress: Counts tensors.

    Raises:
        RequestError: ``out`` exists, is inside a dataset, or the disk refuses.
    """
    out = _new(out)
    shapes = teacher_shapes(config)
    plan = split_torch_state_dict_into_shards(
        {name: torch.empty(shapes[name], device="meta") for name in sorted(shapes)},
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=shard_bytes,
    )
    partial = out.with_name(out.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        progress.expect(len(shapes))
        shard: dict[str, torch.Tensor] = {}
        for name, tensor in weights:
            shard[name] = tensor.contiguous()
            file = plan.tensor_to_filename[name]
            if len(shard) == len(plan.filename_to_tensors[file]):
                save_file(shard, partial / file, metadata={"format": "pt"})
                shard = {}
            progress.advance()
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (partial / INDEX).write_text(json.dumps(index, indent=1))
        (partial / CONFIG).write_text(json.dumps(as_json(config), indent=1))
        follow_umask(partial)
        sync_tree(partial)
        rename_durably(partial, out)
    except (OSError, SafetensorError) as error:
        raise RequestError(
            f"{out} cannot be written: {error}",
            expected=f"room for {plan.metadata['total_size']:,} bytes, and the right to write",
            repair="free space, or give another path",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _new(out: Path) -> Path:
    """Return the absolute path of a folder that may be made.

    Raises:
        RequestError: It exists, or is inside a dataset.
    """
    out = absolute(out)
    refuse_inside_store(out)
    if out.exists():
        raise RequestError(
            f"{out} exists already",
            expected="a folder that does not exist yet",
            repair="choose another name, or remove it",
        )
    return out

"""Reader of ORION's weights: the released ``Orion.pth``, or a folder that ``convert`` made from it.

Both give the same float32 tensors under the names of this port, strictly checked, so that both have the same
digest.
"""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from cache_schema.errors import CheckpointError
from cache_schema.progress import SILENT
from pipeline.teachers.orion.checkpoints.names import adapter_names, checkpoint_name, copy_of, is_unused
from pipeline.teachers.orion.checkpoints.tensors import PLANNER_PREFIX, teacher_shapes
from pipeline.teachers.weights import Fingerprint, is_finite, refuse_misfits, refuse_placeholder

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping
    from pathlib import Path

    from _typeshed import DataclassInstance
    from torch import Tensor

    from cache_schema.progress import Progress
    from pipeline.teachers.orion.checkpoints.tensors import Shapes
    from pipeline.teachers.orion.network.config import OrionConfig

INDEX = "model.safetensors.index.json"
"""File of a converted folder: tensor -> file that holds it."""

CONFIG = "config.json"
"""File of a converted folder: the sizes of the model."""

MERGED_AT_ONCE = 2**15
"""Numbers of a weight that adapters are merged into at once, in whole rows. They stay in a core's own cache,
and torch computes as few in one thread: threads would wait for each other, and for the one that hashes."""

LANE_TABLE = "map_head.instance_embedding_lane.weight"


def read_weights(
    path: Path, config: OrionConfig, names: Container[str] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Check a checkpoint against the sizes of a model, then yield its tensors one by one, sorted by name.

    Args:
        path: A ``.pth`` file or a converted folder.
        config: Sizes it must have.
        names: Of the tensors that are read and yielded; None for all.

    Yields:
        Name (as in ``Orion``'s state dict, the planner's behind ``planner.``) and float32 tensor, adapters
        merged.

    Raises:
        CheckpointError: The file is missing or unreadable, or tensors are missing, unexpected, misshapen, or
            stored twice with different values. One error names them all. Later, as they are yielded, one
            that is not finite.
    """
    if path.is_dir():
        return _read_folder(path, config, names)
    if not path.exists():
        raise CheckpointError(
            f"the checkpoint {path} does not exist",
            expected="Orion.pth, or a folder made from it by `teachonce convert`",
            repair="download the released weights, or correct the path",
        )
    return merged(_load_pth(path), config, path, names)


def digest(weights: Iterable[tuple[str, Tensor]], progress: Progress = SILENT) -> str:
    """Return the fingerprint of all ``weights``; ``progress`` counts them."""
    fingerprint = Fingerprint()
    for name, tensor in weights:
        fingerprint.add(name, tensor)
        progress.advance()
    return str(fingerprint)


def merged(
    stored: Mapping[str, Tensor], config: OrionConfig, path: Path, names: Container[str] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Turn tensors under the released names into tensors in use; see ``read_weights``."""
    stored = {name.removeprefix("module."): tensor for name, tensor in stored.items()}
    shapes = teacher_shapes(config)
    _check(stored, released_shapes(shapes, config), config, path)
    return _merge(stored, _chosen(shapes, names), path)


def released_shapes(shapes: Shapes, config: OrionConfig) -> Shapes:
    """Return names and shapes that the released checkpoint must have for a teacher's tensors."""
    released: Shapes = {}
    for ours, shape in shapes.items():
        name = _released_name(ours)
        adapters = adapter_names(name)
        if name == LANE_TABLE:
            released[name] = (config.lanes.trained_lanes, *shape[1:])
        elif adapters is None:
            released[name] = shape
        else:
            outputs, inputs = shape
            rank = config.language.lora_rank
            released |= zip(adapters, ((outputs, inputs), (rank, inputs), (outputs, rank)), strict=True)
    return released


def _chosen(shapes: Shapes, names: Container[str] | None) -> Shapes:
    return {name: shape for name, shape in shapes.items() if names is None or name in names}


def _released_name(ours: str) -> str:
    if ours.startswith(PLANNER_PREFIX):
        return ours.removeprefix(PLANNER_PREFIX)
    return checkpoint_name(ours)


def _check(stored: Mapping[str, Tensor], expected: Shapes, config: OrionConfig, path: Path) -> None:
    faults = [f"missing: {name} {list(shape)}" for name, shape in expected.items() if name not in stored]
    for name, tensor in stored.items():
        original = copy_of(name, config.backbone)
        if name in expected:
            if tuple(tensor.shape) != expected[name] or tensor.dtype != torch.float32:
                found = f"{list(tensor.shape)} {tensor.dtype}"
                faults.append(f"misshapen: {name} is {found}, not {list(expected[name])} torch.float32")
        elif original is not None and original in stored:
            if not _equal(tensor, stored[original]):
                faults.append(f"differs from its other copy {original}: {name}")
        elif not is_unused(name):
            faults.append(f"unexpected: {name} {list(tensor.shape)}")
    refuse_misfits(path, faults)


def _merge(stored: Mapping[str, Tensor], shapes: Shapes, path: Path) -> Iterator[tuple[str, Tensor]]:
    for ours in sorted(shapes):
        name = _released_name(ours)
        adapters = adapter_names(name)
        for part in (name,) if adapters is None else adapters:
            _check_finite(path, part, stored[part])
        if adapters is None:
            yield ours, stored[name][: shapes[ours][0]]
        else:
            yield ours, merge_adapter(*(stored[part] for part in adapters))


def _equal(copy: Tensor, original: Tensor) -> bool:
    """Whether two tensors hold the same; NaN in the same places is an error of both, named later."""
    return copy.shape == original.shape and torch.equal(copy.nan_to_num(), original.nan_to_num())


def _check_finite(path: Path, name: str, tensor: Tensor) -> None:
    if is_finite(tensor):
        return
    count = tensor.numel() - int(tensor.isfinite().sum())
    refuse_misfits(path, [f"not finite: {name}, in {count:,} of {tensor.numel():,} values"])


def merge_adapter(frozen: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return W + B A for W (out, in), A (rank, in), B (out, rank).

    One rank at a time, because a matrix product rounds differently on other processors, and the digest would
    differ. A few rows at a time, because memory is slower than the sums.
    """
    merged = torch.empty_like(frozen)
    rows = max(1, MERGED_AT_ONCE // frozen.shape[1])
    blocks = zip(frozen.split(rows), b.split(rows), merged.split(rows), strict=True)
    for frozen_rows, b_rows, merged_rows in blocks:
        change = torch.zeros_like(frozen_rows)
        for column, row in zip(b_rows.T, a, strict=True):
            change += column[:, None] * row
        torch.add(frozen_rows, change, out=merged_rows)
    return merged


def _load_pth(path: Path) -> Mapping[str, Tensor]:
    refuse_placeholder(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"the checkpoint {path} holds other objects than tensors, numbers and strings",
            expected="a file written by torch.save that can be opened without running code from it",
            repair="use the released file, or save its state dict alone",
        ) from error
    except (OSError, EOFError, RuntimeError) as error:
        raise CheckpointError(
            f"the checkpoint {path} is not a whole file of torch.save ({type(error).__name__})",
            expected="a zip file of tensors, as torch.save has written since version 1.6",
            repair="download it again and compare its size",
        ) from error
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()
    ):
        raise CheckpointError(
            f"the checkpoint {path} holds no state dict",
            expected="a dict of tensors, or a dict with one under 'state_dict'",
            repair="give the file that the teacher's authors released",
        )
    return content


def _read_folder(
    folder: Path, config: OrionConfig, names: Container[str] | None
) -> Iterator[tuple[str, Tensor]]:
    for file in (folder / CONFIG, folder / INDEX):
        refuse_placeholder(file)
    try:
        made_for = json.loads((folder / CONFIG).read_text())
        files = json.loads((folder / INDEX).read_text())["weight_map"]
        made_for, wanted = _flat(made_for), _flat(as_json(config))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"the checkpoint folder {folder} cannot be read: {error}",
            expected=f"a folder made by `teachonce convert`, with {CONFIG} and {INDEX}",
            repair="convert the checkpoint again",
        ) from error
    differing = sorted(key for key in {*made_for, *wanted} if made_for.get(key) != wanted.get(key))
    if differing:
        raise CheckpointError(
            f"the checkpoint folder {folder} was converted for other sizes: "
            + ", ".join(f"{key} {made_for.get(key)}" for key in differing),
            expected=", ".join(f"{key} {wanted.get(key)}" for key in differing),
            repair="choose the preset it was converted for, or convert the checkpoint again",
        )
    shapes = teacher_shapes(config)
    refuse_misfits(
        folder,
        [f"missing: {name}" for name in shapes.keys() - files.keys()]
        + [f"unexpected: {name}" for name in files.keys() - shapes.keys()],
    )
    return _read_shards(folder, files, _chosen(shapes, names))


def _read_shards(folder: Path, files: Mapping[str, str], shapes: Shapes) -> Iterator[tuple[str, Tensor]]:
    opened = {}
    for name in sorted(shapes):
        file = folder / files[name]
        try:
            if file not in opened:
                refuse_placeholder(file)
                opened[file] = safe_open(file, "pt")
            tensor = opened[file].get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{file} cannot be read: {error}",
                expected=f"a whole safetensors file that holds {name}",
                repair="convert the checkpoint again",
            ) from error
        if tuple(tensor.shape) != shapes[name] or tensor.dtype != torch.float32:
            refuse_misfits(file, [f"misshapen: {name} is {list(tensor.shape)} {tensor.dtype}"])
        _check_finite(file, name, tensor)
        yield name, tensor


def as_json(config: DataclassInstance) -> dict[str, Any]:
    """Return a frozen config as JSON values."""
    return json.loads(json.dumps(asdict(config)))


def _flat(sizes: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sizes by dotted names."""
    flat: dict[str, Any] = {}
    for key, value in sizes.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat

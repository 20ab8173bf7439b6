"""Loading named tensors into a network: all of them, or none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from cache_schema.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn


def refuse_not_finite(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Check that a student's weights, read from a file, are numbers.

    Raises:
        CheckpointError: Some are infinite, or not a number.
    """
    broken = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise CheckpointError(
            f"{len(broken)} of {len(tensors)} tensors of {file} are not finite: {', '.join(broken[:5])}",
            expected="weights of which every one is a number",
            repair="use a checkpoint from before training diverged, or fetch the file again",
        )


def load_start(model: nn.Module, file: Path) -> None:
    """Load weights that a student starts from, of all of it or of a part.

    Args:
        model: Takes them. What the file does not hold stays as it is.
        file: Weights as ``teachonce export`` writes them, ``.safetensors``.

    Raises:
        CheckpointError: The file cannot be read, or a tensor is unexpected, of the wrong shape or not finite.
    """
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"the weights to start from cannot be read from {file}: {error}",
            expected="a file .safetensors, such as `teachonce export` writes",
            repair="correct training.start_from, or leave it out",
        ) from error
    refuse_not_finite(tensors, file)
    load_strictly(model, tensors, names=frozenset(tensors))


def load_strictly(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    names: frozenset[str] | None = None,
    assign: bool = False,
) -> None:
    """Load weights by name, or raise one error that lists everything that does not fit.

    Args:
        model: Takes the weights.
        tensors: Exactly the weights that are expected.
        names: The part of the model's weights that is expected; all of them by default.
        assign: Put the tensors themselves in place instead of copying their values.

    Raises:
        CheckpointError: A tensor is missing, unexpected or of the wrong shape; nothing has been loaded.
    """
    wanted = {name: value for name, value in model.state_dict().items() if names is None or name in names}
    problems = [f"missing: {name} {tuple(wanted[name].shape)}" for name in wanted.keys() - tensors.keys()]
    problems += [f"unexpected: {name}" for name in tensors.keys() - wanted.keys()]
    problems += [
        f"{name} is {tuple(tensors[name].shape)} and should be {tuple(wanted[name].shape)}"
        for name in wanted.keys() & tensors.keys()
        if tensors[name].shape != wanted[name].shape
    ]
    if problems:
        raise CheckpointError(
            f"{len(problems)} tensors do not fit {type(model).__name__}:\n  " + "\n  ".join(sorted(problems)),
            expected=f"exactly {len(wanted)} tensors by name and shape",
            repair="use weights of this very architecture and size",
        )
    model.load_state_dict(dict(tensors), strict=names is None, assign=assign)

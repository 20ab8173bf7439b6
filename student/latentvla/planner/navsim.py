"""NAVSIM's published checkpoints of the latent TransFuser."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import torch

from cache_schema.errors import CheckpointError
from student.runs.weights import load_strictly, refuse_not_finite

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from student.latentvla.planner.latent_transfuser import LatentTransFuser

PREFIX = "agent._transfuser_model."
"""Before every name, below ``state_dict``."""


def load_navsim(planner: LatentTransFuser, file: Path) -> None:
    """Load a checkpoint of NAVSIM's into a planner of its sizes: all tensors, or none.

    Raises:
        CheckpointError: The file is no such checkpoint, or a tensor is missing, unexpected, of the wrong
            shape, or not finite.
    """
    tensors = read_navsim(file)
    refuse_not_finite(tensors, file)
    load_strictly(planner, tensors)


def read_navsim(file: Path) -> dict[str, Tensor]:
    """Read the network's tensors under their own names; nothing in the file is executed.

    Raises:
        CheckpointError: The file cannot be read, or is no such checkpoint.
    """
    try:
        document = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise _refused(file, f"cannot be read: {str(error).splitlines()[0]}") from error
    named = document.get("state_dict") if isinstance(document, dict) else None
    if not isinstance(named, dict):
        raise _refused(file, "has no state_dict")
    others = [name for name in named if not str(name).startswith(PREFIX)]
    if others or not named:
        raise _refused(file, f"has {len(named)} tensors, among them {', '.join(map(str, others[:3])) or '-'}")
    return {name.removeprefix(PREFIX): value for name, value in named.items()}


def _refused(file: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint {file} {what}",
        expected=f"tensors below state_dict whose names begin with {PREFIX}, and nothing that runs code",
        repair="give a checkpoint of NAVSIM's TransFuser agent, or fetch the file again",
    )

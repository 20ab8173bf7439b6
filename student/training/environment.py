"""What environment variables may decide of a run: which processes share it, and nothing else.

accelerate reads defaults from variables that ``accelerate launch`` sets, and joins processes by those of MPI.
Job scripts leave both behind, so that here the recipe alone decides numbers, and processes are joined by the
variables that ``torchrun`` and ``accelerate launch`` set, all of them.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import torch

from cache_schema.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Generator

PLACE = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
"""A process's number among all and on its machine, and how many there are."""
MEETING = ("MASTER_ADDR", "MASTER_PORT")
"""Where the processes meet."""
MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
IGNORED = (
    "ACCELERATE_",
    "FSDP_",
    "FP8_",
    "MEGATRON_LM_",
    "PARALLELISM_CONFIG_",
    "FORK_LAUNCHED",
    "OMPI_COMM_WORLD_",
    "PMI_",
    "MV2_COMM_WORLD_",
    "MPI_LOCAL",
)
"""Beginnings of the names of variables that accelerate would follow."""


@contextlib.contextmanager
def recipe_alone() -> Generator[None]:
    """Hide the variables that accelerate would follow, but for those of a process that shares a run.

    Raises:
        RequestError: Variables say that there are several processes, and not how they are to be joined.
    """
    ignored = IGNORED if _shares_a_run() else (*IGNORED, *PLACE, "LOCAL_WORLD_SIZE")
    hidden = {name: value for name, value in os.environ.items() if name.startswith(ignored)}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def _shares_a_run() -> bool:
    """Return whether this process was started as one of a run's.

    Raises:
        RequestError: Variables say so, and some are missing or wrong.
    """
    values = {name: os.environ.get(name, "") for name in PLACE}
    needed = PLACE if torch.distributed.is_initialized() else (*PLACE, *MEETING)
    missing = [name for name in needed if not os.environ.get(name)]
    rank, local_rank, processes = (int(value) if value.isdecimal() else -1 for value in values.values())
    if not missing and 0 <= local_rank <= rank < processes:
        return True
    sizes = [f"{name}={size}" for name in MPI_SIZES if (size := os.environ.get(name, "1")) not in ("", "1")]
    alone = values["RANK"] in ("", "0") and values["LOCAL_RANK"] in ("", "0", "-1")
    if alone and values["WORLD_SIZE"] in ("", "1") and not sizes:
        return False
    found = [*(f"{name}={value}" for name, value in values.items() if value), *sizes]
    raise RequestError(
        f"the environment says that this process is one of several: {', '.join(found)}"
        + (f"; {', '.join(missing)} are not set" if missing else ""),
        expected=f"{', '.join((*PLACE, *MEETING))} as torchrun and accelerate launch set them, or a process "
        "that trains alone",
        repair=f"start several processes with torchrun; for one, unset {', '.join(_names(found))}",
    )


def _names(found: list[str]) -> list[str]:
    return [text.partition("=")[0] for text in found]

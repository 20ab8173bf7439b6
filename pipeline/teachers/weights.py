"""What the weights of every teacher have in common: digest, random ones, and what is refused."""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

from cache_schema.errors import CheckpointError, RequestError

if TYPE_CHECKING:
    from concurrent.futures import Future
    from pathlib import Path

    from torch import Tensor

PLACEHOLDER_BYTES = 512
"""Bytes of a file that tell whether it is one."""

HASHED_LATER = 2
"""Tensors that may wait for their digest: one is hashed while the next is read."""


class Fingerprint:
    """Digest of weights that come one by one; as text, ``sha256:...``.

    A thread computes it while its owner reads and places the next weight, and holds few weights at a time.
    """

    def __init__(self) -> None:
        self._total = hashlib.sha256()
        self._hasher = ThreadPoolExecutor(1, thread_name_prefix="sha256")
        self._waiting: deque[Future[None]] = deque()

    def __str__(self) -> str:
        self._wait(0)
        return f"sha256:{self._total.hexdigest()}"

    def add(self, name: str, tensor: Tensor) -> None:
        """Add name, shape and bytes of a float32 tensor, which stays as it is; the order matters."""
        self._waiting.append(self._hasher.submit(self._update, name, tensor))
        self._wait(HASHED_LATER)

    def _update(self, name: str, tensor: Tensor) -> None:
        self._total.update(f"{name} {tuple(tensor.shape)}\n".encode())
        self._total.update(tensor.contiguous().view(torch.uint8).numpy())

    def _wait(self, waiting: int) -> None:
        """Wait until at most so many tensors are left; raise what went wrong with one."""
        while len(self._waiting) > waiting:
            self._waiting.popleft().result()


def refuse_placeholder(path: Path) -> None:
    """Check that a file is not what a download leaves in the place of the file itself.

    Raises:
        CheckpointError: It is a pointer of Git LFS, or a web page.
    """
    try:
        with path.open("rb") as file:
            begin = file.read(PLACEHOLDER_BYTES).lstrip().lower()
    except OSError:
        return  # whoever opens it says so
    if begin.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path} is a pointer of Git LFS, not the file that it stands for",
            expected="the file itself, as `git lfs pull` fetches it",
            repair="run `git lfs pull` in its repository, or download the file from its page",
        )
    if begin.startswith((b"<!doctype html", b"<html", b"<?xml")):
        raise CheckpointError(
            f"{path} is a web page, not weights",
            expected="the file itself: a link may lead to a page about it, or to a request to log in",
            repair="download the file that the page offers, and compare its size",
        )


def refuse_misfits(
    where: object,
    faults: list[str],
    *,
    expected: str = "exactly the tensors of the chosen teacher, all of them finite",
    repair: str = "choose the preset of these weights, or download them again",
) -> None:
    """Raise one error that names every tensor of a checkpoint that does not fit; return if there is none.

    Raises:
        CheckpointError: There are such tensors.
    """
    if faults:
        raise CheckpointError(
            f"the checkpoint {where} does not fit: {len(faults)} of its tensors\n    "
            + "\n    ".join(sorted(set(faults))),
            expected=expected,
            repair=repair,
        )


def is_finite(tensor: Tensor) -> bool:
    """Whether all values of a tensor are finite."""
    # The extremes of a tensor are NaN where any value is. Unlike a mask, they take no memory.
    return not tensor.numel() or bool(torch.stack(torch.aminmax(tensor)).isfinite().all())


def not_converted(teacher: str, checkpoint: Path) -> RequestError:
    """Return the error of converting what already starts fast and is safe to open."""
    return RequestError(
        f"the checkpoints of {teacher} need not be converted",
        expected="a folder of .safetensors files, which is safe to open and read tensor by tensor",
        repair=f"give {checkpoint} to `teachonce extract` as it is",
    )


def random_origin(seed: int, device: str = "cpu") -> str:
    """Return how a teacher's identity records weights drawn by ``uniform``."""
    kind = torch.device(device).type
    return f"random:{seed}" if kind == "cpu" else f"random:{seed}@{kind}"


def uniform(name: str, shape: tuple[int, ...], seed: int, device: str) -> Tensor:
    """Draw a tensor from 0..1 by a generator that is seeded with the seed and the tensor's name.

    It does not depend on other tensors. On a CPU it is the same on every machine; every other kind of device
    has numbers of its own.
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator(device).manual_seed(int.from_bytes(digest[:7]))
    return torch.rand(shape, generator=generator, device=device)

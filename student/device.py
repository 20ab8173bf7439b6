"""A GPU beside the host: which one, how exactly it multiplies, its memory, and copies that none waits for."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch
from torch import Tensor

CGROUP = Path("/sys/fs/cgroup")
"""Where a container reads its limits."""


def chosen(name: str) -> torch.device:
    """Return the device "cpu", "cuda" or "cuda:N", and make a numbered one this process's own.

    Pinned memory and whatever names no GPU then belong to that GPU, too, not to the first.
    """
    device = torch.device(name)
    if device.index is not None:
        torch.cuda.set_device(device)
    return device


def allow_tf32(allowed: bool) -> None:
    """Say whether a GPU may round the factors of float32 products to TensorFloat-32's 10 bits."""
    # What is not allowed below is left to the process's default.
    torch.backends.fp32_precision = "ieee"  # ty: ignore[missing-attribute]  # the module is an object
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    # Of recurrent layers, too. torch raises where this name and the newer ones of its parts differ.
    torch.backends.cudnn.allow_tf32 = allowed


def free_bytes(device: torch.device) -> int:
    """Return how much memory of a device is free: of a GPU, or of the host or the container on it."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = psutil.virtual_memory().available
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except OSError:
        return free
    # All else that is counted can be given back: it is cached.
    return free if limit == "max" else min(free, int(limit) - int(used["anon"]))


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Return values of the host on a device; a GPU fetches them from pinned memory while the host goes on."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def fetched(values: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """Return values on the host, and the event after which those of a GPU may be read."""
    if values.device.type != "cuda":
        return values, None
    there = torch.empty_like(values, device="cpu", pin_memory=True).copy_(values, non_blocking=True)
    return there, copied(values.device)


def copied(device: torch.device) -> torch.cuda.Event:
    """Return an event after all that a GPU was told to do so far; who waits for it sleeps."""
    event = torch.cuda.Event(blocking=True)
    event.record(torch.cuda.current_stream(device))
    return event

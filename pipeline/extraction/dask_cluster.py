"""Dask clusters: one that is started on this machine, or one that runs already."""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING

import distributed
import torch

from cache_schema.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

LOOPBACK = "127.0.0.1"
CONNECT_WITHIN_S = 10


@contextlib.contextmanager
def connect(workers: int | None, scheduler: str | None) -> Generator[distributed.Client]:
    """Join the cluster at ``scheduler``, or start one of ``workers`` processes on this machine.

    Raises:
        RequestError: Both are given, the scheduler does not answer, or there are too few GPUs.
    """
    if scheduler is None:
        with local_cluster(workers or 1, gpus=visible_gpus()) as client:
            yield client
        return
    if workers is not None:
        raise RequestError(
            "--workers and --scheduler were both given",
            expected="--workers to start processes here, or --scheduler to join those that are there",
            repair="give one of them",
        )
    try:
        client = distributed.Client(scheduler, timeout=CONNECT_WITHIN_S)
    except (OSError, ValueError) as error:
        raise RequestError(
            f"no dask scheduler answers at {scheduler}: {error}",
            expected="the address that `dask scheduler` prints, such as tcp://10.0.0.1:8786",
            repair="start the scheduler first, or correct the address",
        ) from error
    with client:
        yield client


def visible_gpus() -> tuple[str, ...]:
    """Return the name of each GPU of this machine, as ``CUDA_VISIBLE_DEVICES`` takes it."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return tuple(name for name in chosen.split(",") if name)
    return tuple(str(number) for number in range(torch.cuda.device_count()))


@contextlib.contextmanager
def local_cluster(workers: int, *, gpus: Sequence[str] = ()) -> Generator[distributed.Client]:
    """Start one worker process a GPU, or ``workers`` processes that share the CPU.

    Args:
        workers: Processes.
        gpus: What each process gets as ``CUDA_VISIBLE_DEVICES``; none on a CPU machine.

    Raises:
        RequestError: There are fewer GPUs than workers.
    """
    if gpus and len(gpus) < workers:
        raise RequestError(
            f"{workers} workers were asked for on a machine with {len(gpus)} GPUs",
            expected="at most one worker a GPU",
            repair=f"use --workers {len(gpus)}, or join a larger cluster with --scheduler",
        )

    def nanny(number: int) -> dict[str, object]:
        options = {
            "host": LOOPBACK,
            "nthreads": 1,
            "env": {"CUDA_VISIBLE_DEVICES": gpus[number]} if gpus else {},
            "memory_limit": 0,
            "resources": {"GPU": 1},
            "silence_logs": logging.CRITICAL,
        }
        return {"cls": distributed.Nanny, "options": options}

    scheduler = {
        "cls": distributed.Scheduler,
        "options": {"host": LOOPBACK, "port": 0, "dashboard": False, "dashboard_address": f"{LOOPBACK}:0"},
    }
    with (
        distributed.SpecCluster(
            workers={number: nanny(number) for number in range(workers)},
            scheduler=scheduler,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client

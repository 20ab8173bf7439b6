"""Dask clusters: one that is started on this machine, or one that runs already."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import signal
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING

import distributed
import torch

from cache_schema.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

LOOPBACK = "127.0.0.1"
CONNECT_WITHIN_S = 10


@contextlib.contextmanager
def connect(
    workers: int | None, scheduler: str | None, *, device: str | None = None
) -> Generator[distributed.Client]:
    """Join the cluster at ``scheduler``, or start one of ``workers`` processes on this machine.

    Args:
        workers: Processes to start.
        scheduler: Address to join.
        device: Torch device that was asked for; on a CPU, workers need no GPU each.

    Raises:
        RequestError: Both are given, the scheduler does not answer, there are too few GPUs, or the device is
            one of them.
    """
    if scheduler is None:
        if device is not None and device.partition(":")[2] not in ("", "0"):
            raise RequestError(
                f"the device {device!r} was asked for with --workers",
                expected="cpu or cuda: each worker sees one GPU, its own",
                repair="leave --device out, and choose GPUs by the variable CUDA_VISIBLE_DEVICES",
            )
        gpus = () if device == "cpu" else visible_gpus()
        with local_cluster(workers or 1, gpus=gpus) as client, _quiet_when_stopped():
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
    with client, _quiet_when_stopped():
        yield client


@contextlib.contextmanager
def _quiet_when_stopped() -> Generator[None]:
    """After a Ctrl-C, hide what asyncio says of the messages to workers that nobody waits for any more."""
    try:
        yield
    except KeyboardInterrupt:
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        raise


def visible_gpus() -> tuple[str, ...]:
    """Return the name of each GPU that torch can use, as ``CUDA_VISIBLE_DEVICES`` takes it.

    CUDA reads the variable up to the first entry that is no GPU of this machine, such as ``-1``.
    """
    count = torch.cuda.device_count()
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = map(str, range(count)) if chosen is None else (name.strip() for name in chosen.split(","))
    return tuple(itertools.islice(names, count))


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
    with _without_ctrl_c():
        cluster = distributed.SpecCluster(
            workers={number: nanny(number) for number in range(workers)},
            scheduler=scheduler,
            silence_logs=logging.CRITICAL,
        )
    with cluster, distributed.Client(cluster) as client:
        yield client


@contextlib.contextmanager
def _without_ctrl_c() -> Generator[None]:
    """Start threads and processes, and those that they start later, that do not see a Ctrl-C.

    A terminal sends it to all processes. Only this one may stop, and then stops the others.
    """
    resource_tracker.ensure_running()  # it would unblock the signal again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

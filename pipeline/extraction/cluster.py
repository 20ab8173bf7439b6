"""Extraction on many GPUs, by dask.distributed.

A worker plugin loads the teacher, once a worker and again on the worker that replaces a dead one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import distributed
import torch

from cache_schema.dataset.reader import read_manifest
from cache_schema.dataset.writer import writing
from cache_schema.errors import IdentityError, RequestError
from cache_schema.format.ledger import Ledger
from cache_schema.progress import SILENT
from pipeline.extraction.run import ExtractionReport, WorkerDiedError, establish_for, supervise
from pipeline.extraction.worker import ClipResult, Worker
from pipeline.teachers.protocol import check_kind

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    from cache_schema.progress import Progress
    from pipeline.source import Clip, Selection, Source
    from pipeline.teachers.protocol import Teacher

PLUGIN = "teachonce"
LOOPBACK = "127.0.0.1"
CONNECT_WITHIN_S = 10
RESULT_WITHIN_S = 30
"""A result is ready when it is fetched, so that only a dead worker takes longer."""
DEATHS_ALLOWED = 1
"""Workers that may die over a clip before it becomes a suspect, to be tried again alone."""


class TeacherPlugin(distributed.WorkerPlugin):
    """Keeps a teacher on every worker of the cluster.

    Args:
        load: Loads the teacher; it travels to the workers.
        path: The dataset's folder, which every worker must see under this path.
        slots: Clips that advance together on each worker.
    """

    name = PLUGIN

    def __init__(self, load: Callable[[], Teacher], path: Path, slots: int) -> None:
        self.load = load
        self.path = path
        self.slots = slots

    async def setup(self, worker: distributed.Worker) -> None:
        """Load the teacher; clips that are sent meanwhile wait."""
        if not torch.cuda.is_available():
            # How a sum is rounded depends on the threads that share it, and must not depend on the machine.
            torch.set_num_threads(1)
        self._running = contextlib.ExitStack()
        self._starting = threading.Lock()
        self._worker: Worker | None = None
        self.teacher = await asyncio.to_thread(self.load)

    def teardown(self, worker: distributed.Worker) -> None:
        """Stop the teacher."""
        del worker
        self._running.close()

    def worker(self) -> Worker:
        """Return the running worker, for the dataset that is established by now."""
        with self._starting:
            if self._worker is None:
                manifest = read_manifest(self.path)
                if manifest.teacher != self.teacher.identity:
                    raise IdentityError(
                        f"a worker's teacher is {self.teacher.identity}",
                        expected=f"{manifest.teacher}, as on the worker that made the dataset",
                        repair="give every worker the same checkpoint",
                    )
                worker = Worker(self.teacher, self.path, manifest, self.slots)
                self._worker = self._running.enter_context(worker)
            return self._worker


def _plugin() -> TeacherPlugin:
    plugin = distributed.get_worker().plugins[PLUGIN]
    assert isinstance(plugin, TeacherPlugin)
    return plugin


def _establish(source: Source) -> None:
    """Make the dataset, on one worker: its assets need not travel."""
    plugin = _plugin()
    check_kind(plugin.teacher, source)
    establish_for(plugin.teacher, source, plugin.path)


def _extract_clip(clip: Clip) -> ClipResult:
    """Have a clip extracted by this worker."""
    plugin = _plugin()
    ledger = Ledger(plugin.path / "ledger")
    if clip.name in ledger.clips():
        # A worker died between the commit and its result.
        return ClipResult.of_committed(ledger.read(clip.name))
    pending = plugin.worker().submit(clip)
    distributed.secede()  # it waits without a thread of the worker's pool
    return pending.result()


class _ClusterPending:
    """A clip that a cluster extracts; implements ``PendingClip``."""

    def __init__(self, pool: ClusterPool, clip: Clip) -> None:
        self.clip = clip
        self.slot = clip.index % pool.slots
        self.worker: str | None = None
        """Address of the worker that extracts the clip; None while there is none."""
        self.deaths = 0
        """Workers that died over it."""
        self._pool = pool
        self._future: distributed.Future | None = None
        self._callbacks: list[Callable[..., object]] = []

    def send(self, worker: str) -> None:
        """Have the clip extracted by this worker and no other."""
        self.worker = worker
        self._future = self._pool.client.submit(_extract_clip, self.clip, pure=False, workers=[worker])
        self._future.add_done_callback(self._finish)

    def lose(self) -> None:
        """Record that the clip's worker is dead."""
        if self._future is None or self._future.done():
            return  # its end is known already
        self.worker = None
        self.deaths += 1
        # Forgotten before it is cancelled, so that no callback runs because of that.
        future, self._future = self._future, None
        future.cancel()
        if self.deaths > DEATHS_ALLOWED:
            self._finish(None)

    def result(self) -> ClipResult:
        """See ``PendingClip``."""
        self._pool.outstanding.discard(self)
        if self._future is None:
            raise WorkerDiedError(f"{self.deaths} workers died over {self.clip.name}")
        try:
            result = self._future.result(timeout=RESULT_WITHIN_S)
        except (distributed.KilledWorker, TimeoutError) as error:
            # A result that does not come died with its worker; the clip may well be committed.
            raise WorkerDiedError(str(error)) from error
        self._pool.frames += result.frames
        return replace(result, retries=self.deaths)

    def add_done_callback(self, fn: Callable[..., object], /) -> None:
        """See ``PendingClip``."""
        self._callbacks.append(fn)

    def _finish(self, future: distributed.Future | None) -> None:
        if future is self._future:
            for fn in self._callbacks:
                fn(self)


class ClusterPool:
    """The workers of a dask cluster; implements ``WorkerPool``.

    Each clip is tied to one worker, the one with the fewest clips in its slot: dask's scheduler does not know
    slots. So it is this pool that notices a death, and sends the dead worker's clips to others.
    """

    def __init__(self, client: distributed.Client, slots: int) -> None:
        self.client = client
        self.slots = slots
        self.workers = 0
        self.frames = 0
        """Frames of the clips whose results are in."""
        self.outstanding: set[_ClusterPending] = set()
        """Clips whose results are still to come."""

    def refresh_workers(self) -> None:
        """See ``WorkerPool``."""
        alive = list(self.client.nthreads())
        self.workers = len(alive)
        for pending in self.outstanding:
            if pending.worker is not None and pending.worker not in alive:
                pending.lose()
        for pending in self.outstanding:
            if pending.worker is None and pending.deaths <= DEATHS_ALLOWED and alive:
                busy = Counter(other.worker for other in self.outstanding if other.slot == pending.slot)
                pending.send(min(alive, key=lambda worker, busy=busy: busy[worker]))

    def submit(self, clip: Clip) -> _ClusterPending:
        """Have a clip extracted; it is sent at the next refresh."""
        pending = _ClusterPending(self, clip)
        self.outstanding.add(pending)
        return pending


def extract_on_cluster(
    selection: Selection,
    load: Callable[[], Teacher],
    path: Path,
    client: distributed.Client,
    *,
    slots: int,
    progress: Progress = SILENT,
) -> ExtractionReport:
    """Like ``extract``, with a teacher on every worker of a dask cluster.

    Args:
        selection: Clips, on a file system that every worker sees under the same path.
        load: Loads the teacher; it travels to the workers.
        path: The dataset's folder, on such a file system too.
        client: Connection to the cluster.
        slots: Clips that advance together on each worker.
        progress: Counts frames.

    Raises:
        RequestError: The teacher cannot read the samples of this source.
        IdentityError: The dataset was made by another teacher.
        DatasetError: The disk refuses, or another run writes to the dataset.
    """
    path = path.absolute()
    with writing(path):
        client.register_plugin(TeacherPlugin(load, path, slots))
        try:
            client.submit(_establish, selection.source, pure=False).result()
            return supervise(selection, ClusterPool(client, slots), path, slots=slots, progress=progress)
        finally:
            with contextlib.suppress(OSError, TimeoutError):  # the cluster may be gone
                client.unregister_worker_plugin(PLUGIN)


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

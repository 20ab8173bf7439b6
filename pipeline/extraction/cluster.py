"""The same work on many GPUs, by dask.distributed.

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
from cache_schema.dataset.writer import DatasetWriter, establish
from cache_schema.errors import IdentityError, RequestError
from cache_schema.format.ledger import Ledger
from cache_schema.progress import SILENT
from pipeline.extraction.run import ExtractionReport, WorkerDiedError, describe, supervise
from pipeline.extraction.worker import LockStep, Receipt

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    from cache_schema.format.manifest import DataIdentity
    from cache_schema.progress import Progress
    from pipeline.source import SelectedClip, Selection
    from pipeline.teachers.protocol import Teacher

PLUGIN = "teachonce"
LOOPBACK = "127.0.0.1"
CONNECT_WITHIN_S = 10
RECEIPT_WITHIN_S = 30
"""A receipt is ready when it is asked for, so that only a dead worker takes longer."""
DEATHS_ALLOWED = 1
"""Workers that may die over a clip before it becomes a suspect, to be asked again alone."""


class TeacherPlugin(distributed.WorkerPlugin):
    """Keeps a teacher on every worker.

    Args:
        load: Loads the teacher; it travels to the workers.
        path: The dataset's folder, which every worker must see under this path.
        slots: Clips that advance in lock-step on each worker.
    """

    name = PLUGIN

    def __init__(self, load: Callable[[], Teacher], path: Path, slots: int) -> None:
        self.load = load
        self.path = path
        self.slots = slots

    async def setup(self, worker: distributed.Worker) -> None:
        """Load the teacher; clips that are sent meanwhile wait."""
        if not torch.cuda.is_available():
            # How a sum is rounded depends on the threads that share it, and shall not depend on the machine.
            torch.set_num_threads(1)
        self._work = contextlib.ExitStack()
        self._beginning = threading.Lock()
        self._lockstep: LockStep | None = None
        self.teacher = await asyncio.to_thread(self.load)

    def teardown(self, worker: distributed.Worker) -> None:
        """Stop asking the teacher."""
        del worker
        self._work.close()

    def lockstep(self) -> LockStep:
        """The teacher at work, for the dataset that is established by now."""
        with self._beginning:
            if self._lockstep is None:
                manifest = read_manifest(self.path)
                if manifest.teacher != self.teacher.identity:
                    raise IdentityError(
                        f"a worker's teacher is {self.teacher.identity}",
                        expected=f"{manifest.teacher}, as on the worker that made the dataset",
                        repair="give every worker the same checkpoint",
                    )
                work = LockStep(self.teacher, self.path, manifest, self.slots)
                self._lockstep = self._work.enter_context(work)
            return self._lockstep


def _plugin() -> TeacherPlugin:
    plugin = distributed.get_worker().plugins[PLUGIN]
    assert isinstance(plugin, TeacherPlugin)
    return plugin


def _establish(data: DataIdentity) -> None:
    """Make the dataset, on one worker: its assets need not travel."""
    plugin = _plugin()
    establish(plugin.path, *describe(plugin.teacher, data))


def _look_at(clip: SelectedClip) -> Receipt:
    """Have a clip looked at on this worker."""
    plugin = _plugin()
    ledger = Ledger(plugin.path)
    if clip.name in ledger:
        # A worker died between the commit and its receipt.
        return Receipt.of_committed(ledger.read(clip.name))
    pending = plugin.lockstep().submit(clip)
    distributed.secede()  # it waits without a thread of the worker's pool
    return pending.result()


class _ClusterPending:
    """A receipt that a cluster owes."""

    def __init__(self, crew: ClusterCrew, clip: SelectedClip) -> None:
        self.clip = clip
        self.slot = clip.rank % crew.slots
        self.worker: str | None = None
        """Address of who looks at the clip; None while nobody does."""
        self.deaths = 0
        """Workers that died over it."""
        self._crew = crew
        self._future: distributed.Future | None = None
        self._told: list[Callable[..., object]] = []

    def send(self, worker: str) -> None:
        """Have a worker look at the clip, and nobody else."""
        self.worker = worker
        self._future = self._crew.client.submit(_look_at, self.clip, pure=False, workers=[worker])
        self._future.add_done_callback(self._tell)

    def lose(self) -> None:
        """The worker is dead: nobody looks at the clip any more."""
        if self._future is None or self._future.done():
            return  # its end is known already
        self.worker = None
        self.deaths += 1
        # Forgotten before it is cancelled, so that nobody is told of that.
        future, self._future = self._future, None
        future.cancel()
        if self.deaths > DEATHS_ALLOWED:
            self._tell(None)

    def result(self) -> Receipt:
        """See ``Pending``."""
        self._crew.owed.discard(self)
        if self._future is None:
            raise WorkerDiedError(f"{self.deaths} workers died over {self.clip.name}")
        try:
            receipt = self._future.result(timeout=RECEIPT_WITHIN_S)
        except (distributed.KilledWorker, TimeoutError) as error:
            # A receipt that does not come died with its worker; the clip may well be committed.
            raise WorkerDiedError(str(error)) from error
        self._crew.frames += receipt.frames
        return replace(receipt, retries=self.deaths)

    def add_done_callback(self, fn: Callable[..., object], /) -> None:
        """See ``Pending``."""
        self._told.append(fn)

    def _tell(self, future: distributed.Future | None) -> None:
        if future is self._future:
            for fn in self._told:
                fn(self)


class ClusterCrew:
    """The workers of a dask cluster.

    Each clip is tied to one worker, the one with the fewest clips in its slot: the scheduler knows nothing of
    slots. So it is this crew that notices a death, and sends the dead worker's clips to others.
    """

    def __init__(self, client: distributed.Client, slots: int) -> None:
        self.client = client
        self.slots = slots
        self.workers = 0
        self.frames = 0
        """Frames of the clips whose receipts are in."""
        self.owed: set[_ClusterPending] = set()
        """Receipts that are still to come."""

    def muster(self) -> None:
        """See ``Crew``."""
        there = list(self.client.nthreads())
        self.workers = len(there)
        for pending in self.owed:
            if pending.worker is not None and pending.worker not in there:
                pending.lose()
        for pending in self.owed:
            if pending.worker is None and pending.deaths <= DEATHS_ALLOWED and there:
                looking = Counter(other.worker for other in self.owed if other.slot == pending.slot)
                pending.send(min(there, key=lambda worker, looking=looking: looking[worker]))

    def submit(self, clip: SelectedClip) -> _ClusterPending:
        """Have a clip looked at, from the next ``muster`` on."""
        pending = _ClusterPending(self, clip)
        self.owed.add(pending)
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
        selection: Raw clips, on a file system that every worker sees under the same path.
        load: Loads the teacher; it travels to the workers.
        path: The dataset's folder, on such a file system too.
        client: Connection to the cluster.
        slots: Clips that advance in lock-step on each worker.
        progress: Counts frames.

    Raises:
        IdentityError: The dataset was made by another teacher.
        DatasetError: The disk refuses, or another run writes to the dataset.
    """
    path = path.absolute()
    with DatasetWriter(path):
        client.register_plugin(TeacherPlugin(load, path, slots))
        try:
            client.submit(_establish, selection.data, pure=False).result()
            return supervise(selection, ClusterCrew(client, slots), path, slots=slots, progress=progress)
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
    """What to call each GPU of this machine in ``CUDA_VISIBLE_DEVICES``."""
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

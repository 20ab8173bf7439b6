"""Extraction by the workers of a dask cluster.

A worker plugin loads the teacher, once a worker and again on the worker that replaces a dead one.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from concurrent.futures import CancelledError
from dataclasses import replace
from typing import TYPE_CHECKING

import distributed
import torch

from cache_schema.dataset.reader import read_manifest
from cache_schema.dataset.writer import DatasetWriter
from cache_schema.errors import IdentityError
from cache_schema.format.ledger import Ledger
from cache_schema.progress import SILENT
from pipeline.extraction.run import ExtractionReport, WorkerDiedError, establish_for, supervise
from pipeline.extraction.worker import ClipResult, Worker
from pipeline.teachers.protocol import check_kind

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cache_schema.progress import Progress
    from pipeline.source import Clip, Selection, Source
    from pipeline.teachers.protocol import Teacher

PLUGIN = "teachonce"
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
        self._stopped = False
        self.teacher = await asyncio.to_thread(self.load)

    def teardown(self, worker: distributed.Worker) -> None:
        """Stop the teacher, for good: a process must not end while one computes in a thread."""
        del worker
        with self._starting:
            self._stopped = True
            self._running.close()

    def worker(self) -> Worker:
        """Return the running worker, for the dataset that is established by now."""
        with self._starting:
            if self._stopped:
                raise RuntimeError("the worker has stopped")
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
    ledger = Ledger(plugin.path)
    if clip.name in ledger:
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
        RequestError: The teacher cannot read the samples of this source, or a GPU's memory does not suffice.
        IdentityError: The dataset was made by another teacher.
        DatasetError: The disk refuses, or another run writes to the dataset.
    """
    path = path.absolute()
    with DatasetWriter(path):
        client.register_plugin(TeacherPlugin(load, path, slots))
        try:
            client.submit(_establish, selection.source, pure=False).result()
            return supervise(selection, ClusterPool(client, slots), path, slots=slots, progress=progress)
        finally:
            # The cluster may be gone, or have workers that the plugin never reached.
            with contextlib.suppress(OSError, TimeoutError, KeyError, CancelledError):
                client.unregister_worker_plugin(PLUGIN)

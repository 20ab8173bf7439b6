"""One worker: a teacher, and clips that advance together, one a slot.

When a clip ends, the next one takes its slot. It was opened during one of the steps before, one clip a step:
clips that are waited for do not share the processors with clips that are not. Threads open clips and prepare
samples ahead, one thread runs the teacher, and another one writes the outputs of the step before.

Kernels round differently for another batch size, and for another row of the same batch. So a batch has one
row a slot, idle or not, and the index of a clip in its source decides its slot: whichever worker extracts the
clip, after however many interruptions, the bits are the same.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from cache_schema.dataset.clip_writer import ClipWriter
from cache_schema.errors import ClipError, FeatureError
from cache_schema.format.ledger import ClipInfo
from cache_schema.processors import usable_processors
from pipeline.extraction.allocator import keep_freed_memory
from pipeline.extraction.gpu_memory import must_suffice_for
from pipeline.extraction.outputs import HostOutputs
from pipeline.extraction.own_memory import own
from pipeline.extraction.prefetch import Prefetcher
from pipeline.teachers.protocol import is_compiled

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import numpy as np

    from cache_schema.format.ledger import LedgerEntry
    from cache_schema.format.manifest import Manifest
    from pipeline.source import Clip
    from pipeline.teachers.protocol import Teacher

WRITES_QUEUED = 64
"""Writes that may wait for the disk before the teacher waits as well."""


@dataclass(frozen=True)
class ClipResult:
    """How a committed clip was extracted. The seconds are its share of its worker's time."""

    clip: str
    frames: int
    digest: str
    worker: str
    """Machine and process that extracted it."""
    wall_s: float
    inputs_s: float
    """Waiting for inputs."""
    teacher_s: float
    """Waiting for the teacher."""
    disk_s: float
    """Waiting for the disk."""
    memory_peak_bytes: int | None
    """Most GPU memory ever used by the worker; None without a GPU."""
    gpu: str | None = None
    """Model of the GPU that computed the clip; None without one."""
    retries: int = 0
    """Workers that died over the clip before."""

    @classmethod
    def of_committed(cls, entry: LedgerEntry) -> ClipResult:
        """Return the result of a clip whose worker died after its commit."""
        return cls(
            clip=entry.clip.name,
            frames=entry.clip.frames,
            digest=entry.digest,
            worker=entry.writer,
            wall_s=entry.wall_s,
            inputs_s=0.0,
            teacher_s=entry.wall_s,
            disk_s=0.0,
            memory_peak_bytes=None,
            gpu=entry.gpu,
        )


class _Opened(NamedTuple):
    writer: ClipWriter
    ground_truth: Mapping[str, np.ndarray | Sequence[np.ndarray]]
    samples: Prefetcher


@dataclass(eq=False)
class _Job:
    """One clip on its way through the worker."""

    clip: Clip
    opening: Future[_Opened] | None = None
    result: Future[ClipResult] = field(default_factory=Future)
    samples: Prefetcher | None = None
    writer: ClipWriter | None = None
    samples_written: int = 0
    inputs_s: float = 0.0
    teacher_s: float = 0.0
    disk_s: float = 0.0


@dataclass(eq=False)
class _Step:
    """A step whose outputs are not written yet."""

    jobs: dict[int, _Job]
    """By slot."""
    outputs: HostOutputs
    teacher_s: float


class Worker:
    """A teacher and its slots, in a thread; implements ``WorkerPool``. Use it as a context manager.

    Args:
        teacher: Computes the features.
        path: Folder of a dataset that exists and is held by this run.
        manifest: Its manifest.
        slots: Clips that advance together.
    """

    def __init__(self, teacher: Teacher, path: Path, manifest: Manifest, slots: int) -> None:
        self.workers = 1
        self.frames = 0
        """Samples that the teacher has computed."""
        self._teacher = teacher
        self._path = path
        self._manifest = manifest
        self._slots: list[_Job | None] = [None] * slots
        self._queues: list[deque[_Job]] = [deque() for _ in range(slots)]
        self._writes: deque[tuple[_Job, Future]] = deque()
        self._outstanding: set[_Job] = set()
        self._writers: set[ClipWriter] = set()
        self._gpus: set[torch.device] = set()
        self._changed = threading.Condition()
        self._closed = False
        self._failure: BaseException | None = None
        self._readers = ThreadPoolExecutor(max(2, usable_processors()), thread_name_prefix="read")
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._thread = threading.Thread(target=self._run, name="teacher", daemon=True)

    def __enter__(self) -> Worker:
        keep_freed_memory()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        self._readers.shutdown(cancel_futures=True)
        self._disk.shutdown(cancel_futures=True)
        for writer in self._writers:
            writer.abort()  # of what is not committed

    def refresh_workers(self) -> None:
        """See ``WorkerPool``: this process is the only worker."""

    def submit(self, clip: Clip) -> Future[ClipResult]:
        """Extract a clip; its ground truth and first samples are read at once if its slot is free.

        The future raises ``ClipError`` or ``FeatureError`` where the clip has to be left out, and anything
        else where the teacher or the disk has failed for good.
        """
        job = _Job(clip)
        with self._changed:
            if self._closed:
                raise self._failure or RuntimeError("the worker has stopped")
            self._outstanding.add(job)
            slot = clip.index % len(self._queues)
            if not self._slots[slot] and not self._queues[slot]:
                self._begin_opening(job)
            self._queues[slot].append(job)
            self._changed.notify()
        job.result.add_done_callback(lambda _: self._outstanding.discard(job))
        return job.result

    def _begin_opening(self, job: _Job) -> Future[_Opened]:
        if job.opening is None:
            job.opening = self._readers.submit(self._open, job.clip)
        return job.opening

    def _open(self, clip: Clip) -> _Opened:
        opened = clip.open()
        ground_truth = own(dict(opened.ground_truth()))  # it is written later, when the clip's turn comes
        writer = ClipWriter(self._path, self._manifest, _info(clip))
        self._writers.add(writer)
        return _Opened(writer, ground_truth, Prefetcher(opened, clip.samples, self._teacher, self._readers))

    @torch.inference_mode()
    def _run(self) -> None:
        """Step the teacher until the worker is closed; hand an error to everything that waits."""
        try:
            with must_suffice_for(len(self._slots)):
                self._step_until_closed()
        except BaseException as error:  # noqa: BLE001 - none may end this thread unseen
            self._stop(error)

    def _step_until_closed(self) -> None:
        slots = len(self._slots)
        state = self._teacher.begin(slots)
        in_flight: _Step | None = None
        while self._wait(in_flight):
            inputs = [self._next_inputs(slot) for slot in range(slots)]
            jobs = {slot: job for slot, job in enumerate(self._slots) if job and inputs[slot] is not None}
            before, in_flight = in_flight, None
            if jobs:
                begun = time.perf_counter()
                outputs, state = self._teacher.step(self._teacher.collate(inputs), state)
                in_flight = _Step(jobs, HostOutputs(outputs, slots), time.perf_counter() - begun)
                self._gpus |= in_flight.outputs.gpus
                self._open_one_ahead()
                self._release_slots()
            # While a GPU computes one step, the outputs of the step before are written.
            if before:
                self._write_step(before)

    def _wait(self, in_flight: _Step | None) -> bool:
        """Wait until there is something to compute or to write; return False once the worker is closed."""

        def busy() -> bool:
            return in_flight is not None or any(self._slots) or any(self._queues)

        if not busy():
            self._settle_writes(0)
        with self._changed:
            self._changed.wait_for(lambda: self._closed or busy())
            return not self._closed

    def _next_inputs(self, slot: int) -> Any:
        """Return the next inputs of the slot's clip, or of the next readable clip in its queue; else None."""
        while job := self._slots[slot] or self._take(slot):
            begun = time.perf_counter()
            try:
                if job.samples is None:
                    opened = self._begin_opening(job).result()
                    job.samples, job.writer = opened.samples, opened.writer
                    self._append(job, job.writer, opened.ground_truth)
                prepared = job.samples.next()
                if job.writer is not None and prepared.values:
                    values = {name: value[None] for name, value in prepared.values.items()}
                    self._append(job, job.writer, values)
                return prepared.inputs
            except ClipError as error:
                self._drop(job, error)
            finally:
                job.inputs_s += time.perf_counter() - begun
        return None

    def _take(self, slot: int) -> _Job | None:
        """Let the next clip in a slot's queue have the slot."""
        with self._changed:
            self._slots[slot] = self._queues[slot].popleft() if self._queues[slot] else None
            return self._slots[slot]

    def _open_one_ahead(self) -> None:
        """Have the next clip of one slot opened; behind several at once, samples needed sooner would wait."""
        with self._changed:
            closed = (queue[0] for queue in self._queues if queue and queue[0].opening is None)
            if job := next(closed, None):
                self._begin_opening(job)

    def _release_slots(self) -> None:
        """Free the slots of clips whose last sample has been computed."""
        for slot, job in enumerate(self._slots):
            if job and job.samples and job.samples.exhausted:
                self._slots[slot] = None

    def _write_step(self, step: _Step) -> None:
        """Queue the outputs of a step for the disk."""
        begun = time.perf_counter()
        step.outputs.wait()
        arrived = time.perf_counter()
        step.teacher_s += arrived - begun
        for slot, job in step.jobs.items():
            job.teacher_s += step.teacher_s / len(step.jobs)
            if job.writer is not None and not job.result.done():
                self._append(job, job.writer, step.outputs.of_slot(slot))
                job.samples_written += 1
                if job.samples_written == job.clip.samples:
                    self._writes.append((job, self._disk.submit(self._commit, job, job.writer)))
        self._settle_writes(WRITES_QUEUED)
        for job in step.jobs.values():
            job.disk_s += (time.perf_counter() - arrived) / len(step.jobs)
        self.frames += len(step.jobs)

    def _append(self, job: _Job, writer: ClipWriter, values: Mapping[str, Any]) -> None:
        self._writes.append((job, self._disk.submit(writer.append, values)))

    def _commit(self, job: _Job, writer: ClipWriter) -> ClipResult:
        # Read at once: the teacher's thread goes on counting while this one commits.
        inputs_s, teacher_s, disk_s = job.inputs_s, job.teacher_s, job.disk_s
        wall_s = inputs_s + teacher_s + disk_s
        gpu = computed_by(map(torch.cuda.get_device_name, self._gpus), compiled=is_compiled(self._teacher))
        entry = writer.commit(wall_s=wall_s, gpu=gpu)
        return ClipResult(
            clip=job.clip.name,
            frames=job.clip.samples,
            digest=entry.digest,
            worker=f"{platform.node()}:{os.getpid()}",
            wall_s=wall_s,
            inputs_s=inputs_s,
            teacher_s=teacher_s,
            disk_s=disk_s,
            memory_peak_bytes=max(map(torch.cuda.max_memory_allocated, self._gpus), default=None),
            gpu=gpu,
        )

    def _settle_writes(self, queued: int) -> None:
        """Handle finished writes; wait until at most ``queued`` are left."""
        while self._writes and (len(self._writes) > queued or self._writes[0][1].done()):
            job, write = self._writes.popleft()
            try:
                result = write.result()
            except FeatureError as error:
                self._drop(job, error)
            else:
                if result is not None and not job.result.done():
                    self._writers.discard(job.writer)
                    job.result.set_result(result)

    def _drop(self, job: _Job, error: ClipError | FeatureError) -> None:
        """Leave a clip out; outputs for it that are still to come are ignored."""
        if job.result.done():
            return
        if job in self._slots:
            self._slots[self._slots.index(job)] = None
        if job.samples is not None:
            job.samples.cancel()
        if job.writer is not None:
            self._writers.discard(job.writer)
            self._disk.submit(job.writer.abort)
        job.result.set_exception(error)

    def _stop(self, error: BaseException) -> None:
        """Pass an error for good to everything that waits."""
        with self._changed:
            self._closed, self._failure = True, error
            outstanding = list(self._outstanding)
        for job in outstanding:
            job.result.set_exception(error)


def computed_by(gpus: Iterable[str], *, compiled: bool) -> str | None:
    """Return what a clip's entry says of the GPUs that computed it, by their names; None for no GPU."""
    names = " and ".join(sorted(set(gpus)))
    return f"{names}, compiled" if names and compiled else names or None


def _info(clip: Clip) -> ClipInfo:
    return ClipInfo(name=clip.name, frames=clip.samples, split=clip.split, tags=dict(clip.tags))

"""One teacher at work: clips advance in lock-step, one a slot.

When a clip ends, the next takes its slot, and the teacher starts that slot's memory afresh. Threads decode
images ahead, one thread asks the teacher, and one behind it writes what was said a step ago.

Kernels round differently for another batch size, and for another row of the same batch. So the batch has one
row a slot, idle or not, and a clip's slot follows from its place in the data root: whoever makes the clip,
after however many interruptions, makes the same bits.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from cache_schema.dataset.clip_writer import ClipWriter
from cache_schema.errors import ClipError, FeatureError
from pipeline.bench2drive.reader import read_annotations
from pipeline.extraction.allocator import keep_freed_memory
from pipeline.extraction.prefetch import Sight, SlotClip, frame_batch, idle_sight

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from cache_schema.format.ledger import LedgerEntry
    from cache_schema.format.manifest import Manifest
    from pipeline.source import SelectedClip
    from pipeline.teachers.protocol import Teacher

WRITES_BEHIND = 64
"""Frames that may wait for the disk before the teacher waits as well."""


@dataclass(frozen=True)
class Receipt:
    """What remains to be told of a clip that is committed. The seconds are its share of its worker's."""

    clip: str
    frames: int
    digest: str
    worker: str
    """Machine and process that made it."""
    wall_s: float
    images_s: float
    """Waiting for images."""
    teacher_s: float
    """Asking the teacher."""
    disk_s: float
    """Waiting for the disk."""
    memory_peak_bytes: int | None
    """Most GPU memory ever used by the worker; None without a GPU."""
    retries: int = 0
    """Workers that died over the clip before."""

    @classmethod
    def of_committed(cls, entry: LedgerEntry) -> Receipt:
        """The receipt of a clip whose worker has died since its commit."""
        return cls(
            clip=entry.clip.name,
            frames=entry.clip.frames,
            digest=entry.digest,
            worker=entry.writer,
            wall_s=entry.wall_s,
            images_s=0.0,
            teacher_s=entry.wall_s,
            disk_s=0.0,
            memory_peak_bytes=None,
        )


@dataclass(eq=False)
class _Job:
    clip: SelectedClip
    preparing: Future[SlotClip]
    receipt: Future[Receipt] = field(default_factory=Future)
    frames: SlotClip | None = None
    writer: ClipWriter | None = None
    frames_said: int = 0
    images_s: float = 0.0
    teacher_s: float = 0.0
    disk_s: float = 0.0


class _Step:
    """What a teacher says of one frame of every job, on its way from the GPU if there is one.

    Args:
        jobs: By slot.
        said: Features (slots, *shape).
    """

    def __init__(self, jobs: dict[int, _Job], said: dict[str, torch.Tensor]) -> None:
        self.jobs = jobs
        self.teacher_s = 0.0
        # Into pinned memory, which torch chooses for copies that nobody waits for.
        self._said = {name: tensor.to("cpu", non_blocking=True) for name, tensor in said.items()}
        self._copied = torch.cuda.Event() if any(tensor.is_cuda for tensor in said.values()) else None
        if self._copied:
            self._copied.record()

    def arrays(self) -> dict[str, np.ndarray]:
        """The features, once they have arrived."""
        if self._copied:
            self._copied.synchronize()
        return {name: tensor.numpy() for name, tensor in self._said.items()}


class LockStep:
    """A teacher and its slots, in a thread. Use it as a context manager.

    Args:
        teacher: Who looks at the frames.
        path: Folder of a dataset that exists and is held by this run.
        manifest: Its manifest.
        slots: Clips that advance together.
    """

    def __init__(self, teacher: Teacher, path: Path, manifest: Manifest, slots: int) -> None:
        self.workers = 1
        self.frames = 0
        """Frames that the teacher has looked at."""
        self._teacher = teacher
        self._path = path
        self._manifest = manifest
        self._slots: list[_Job | None] = [None] * slots
        self._queues: list[deque[_Job]] = [deque() for _ in range(slots)]
        self._writes: deque[tuple[_Job, Future]] = deque()
        self._owed: set[_Job] = set()
        self._changed = threading.Condition()
        self._closed = False
        self._readers = ThreadPoolExecutor(max(2, os.cpu_count() or 1), thread_name_prefix="read")
        self._behind = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._thread = threading.Thread(target=self._work, name="teacher", daemon=True)

    def __enter__(self) -> LockStep:
        keep_freed_memory()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()
        self._readers.shutdown(cancel_futures=True)
        self._behind.shutdown(cancel_futures=True)

    def muster(self) -> None:
        """There is nobody but this process, and it is here."""

    def submit(self, clip: SelectedClip) -> Future[Receipt]:
        """Have a clip looked at; its annotations and first images are read at once.

        The future raises ``ClipError`` or ``FeatureError`` where the clip has to be left out, and anything
        else where the teacher or the disk has failed for good.
        """
        job = _Job(clip, self._readers.submit(self._prepare, clip))
        with self._changed:
            if self._closed:
                raise RuntimeError("the teacher has stopped")
            self._owed.add(job)
            self._queues[clip.rank % len(self._queues)].append(job)
            self._changed.notify()
        job.receipt.add_done_callback(lambda _: self._owed.discard(job))
        return job.receipt

    def _prepare(self, clip: SelectedClip) -> SlotClip:
        return SlotClip(clip.raw, read_annotations(clip.raw), self._teacher.images, self._readers)

    @torch.inference_mode()
    def _work(self) -> None:
        try:
            state = self._teacher.begin(len(self._slots))
            idle = idle_sight(self._teacher.images)
            coming: _Step | None = None
            while self._wait(coming):
                sights = [self._next_sight(slot) for slot in range(len(self._slots))]
                jobs = {slot: job for slot, job in enumerate(self._slots) if job and sights[slot]}
                before, coming = coming, None
                if jobs:
                    begun = time.perf_counter()
                    said, state = self._teacher.step(frame_batch([sight or idle for sight in sights]), state)
                    coming = _Step(jobs, said)
                    coming.teacher_s += time.perf_counter() - begun
                    self._free_slots()
                # While a GPU works on one step, what it said at the step before is taken in.
                if before:
                    self._take_in(before)
        except BaseException as error:  # noqa: BLE001 - it is handed to everybody who waits
            self._stop(error)

    def _take_in(self, step: _Step) -> None:
        """Have what was said at a step written."""
        begun = time.perf_counter()
        values = step.arrays()
        arrived = time.perf_counter()
        step.teacher_s += arrived - begun
        for slot, job in step.jobs.items():
            job.teacher_s += step.teacher_s / len(step.jobs)
            if not job.receipt.done():
                self._write(job, {name: array[slot : slot + 1] for name, array in values.items()})
        self._settle(WRITES_BEHIND)
        for job in step.jobs.values():
            job.disk_s += (time.perf_counter() - arrived) / len(step.jobs)
        self.frames += len(step.jobs)

    def _free_slots(self) -> None:
        """Let go of the clips whose last frame has been seen."""
        for slot, job in enumerate(self._slots):
            if job and job.frames and job.frames.ended:
                self._slots[slot] = None

    def _wait(self, coming: _Step | None) -> bool:
        """Wait until there is something to look at or to take in; False once there never will be."""

        def busy() -> bool:
            return coming is not None or any(self._slots) or any(self._queues)

        if not busy():
            self._settle(0)
        with self._changed:
            self._changed.wait_for(lambda: self._closed or busy())
            return not self._closed

    def _next_sight(self, slot: int) -> Sight | None:
        """The next frame of the slot's clip, or the first of the next readable clip in its queue."""
        while job := self._slots[slot] or self._take(slot):
            begun = time.perf_counter()
            try:
                if job.frames is None:
                    job.frames = job.preparing.result()
                    job.writer = ClipWriter(self._path, self._manifest, job.clip.info)
                    truth = job.frames.annotations.truth()
                    self._writes.append((job, self._behind.submit(job.writer.append, truth)))
                self._slots[slot] = job
                return job.frames.sight()
            except ClipError as error:
                self._drop(job, error)
            finally:
                job.images_s += time.perf_counter() - begun
        return None

    def _take(self, slot: int) -> _Job | None:
        with self._changed:
            return self._queues[slot].popleft() if self._queues[slot] else None

    def _write(self, job: _Job, values: dict[str, np.ndarray]) -> None:
        assert job.writer is not None
        self._writes.append((job, self._behind.submit(job.writer.append, values)))
        job.frames_said += 1
        if job.frames_said == job.clip.frames:
            self._writes.append((job, self._behind.submit(self._commit, job, job.writer)))

    def _commit(self, job: _Job, writer: ClipWriter) -> Receipt:
        wall_s = job.images_s + job.teacher_s + job.disk_s
        entry = writer.commit(wall_s=wall_s)
        return Receipt(
            clip=job.clip.name,
            frames=job.clip.frames,
            digest=entry.digest,
            worker=f"{platform.node()}:{os.getpid()}",
            wall_s=wall_s,
            images_s=job.images_s,
            teacher_s=job.teacher_s,
            disk_s=job.disk_s,
            memory_peak_bytes=torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
        )

    def _settle(self, behind: int) -> None:
        """Look at finished writes; wait until at most ``behind`` are under way."""
        while self._writes and (len(self._writes) > behind or self._writes[0][1].done()):
            job, write = self._writes.popleft()
            try:
                receipt = write.result()
            except FeatureError as error:
                self._drop(job, error)
            else:
                if receipt is not None and not job.receipt.done():
                    job.receipt.set_result(receipt)

    def _drop(self, job: _Job, error: ClipError | FeatureError) -> None:
        """Leave a clip out: what is still said about it goes nowhere."""
        if job.receipt.done():
            return
        if job in self._slots:
            self._slots[self._slots.index(job)] = None
        if job.frames is not None:
            job.frames.cancel()
        if job.writer is not None:
            self._behind.submit(job.writer.abort)
        job.receipt.set_exception(error)

    def _stop(self, error: BaseException) -> None:
        """The teacher or the disk has failed for good: everybody who waits is told."""
        with self._changed:
            self._closed = True
            owed = list(self._owed)
        for job in owed:
            job.receipt.set_exception(error)

"""The loop: clips -> frames -> teacher -> latent dataset.

A clip is the unit of work. Several clips advance in lock-step, one a slot; when one ends, the next takes its
slot, and the teacher starts that slot's memory afresh. Images are decoded ahead by threads, and a thread
behind writes.

Kernels round differently for another batch size, and for another row of the same batch. So the batch has one
row a slot, idle or not, and a clip's slot follows from its place in the data root: a run that was killed and
started again says the same to the last bit.
"""

from __future__ import annotations

import importlib.metadata
import os
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save

from cache_schema.durable import sha256_bytes
from cache_schema.errors import ClipError, FeatureError, TeachonceError
from cache_schema.features import TRUTH
from cache_schema.ledger import ClipInfo
from cache_schema.manifest import AssetSpec, CodeIdentity, Manifest
from cache_schema.writer import ClipWriter, DatasetWriter
from pipeline.bench2drive.reader import read_annotations
from pipeline.progress import FrameProgress
from pipeline.selection import Failure
from pipeline.slots import Sight, SlotClip, frame_batch, idle_sight

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np

    from cache_schema.manifest import DataIdentity
    from pipeline.bench2drive.reader import ClipAnnotations
    from pipeline.selection import SelectedClip, Selection
    from pipeline.teachers.protocol import Teacher

WRITES_BEHIND = 64
"""Frames that may wait for the disk before the teacher waits as well."""
GIVE_UP_AFTER = 3
"""Clips that may fail in a row: by then it is the disk or the data set, not the clip."""


@dataclass(frozen=True)
class ExtractionReport:
    """How a run ended."""

    committed: tuple[str, ...]
    """Clips that this run added."""
    present: tuple[str, ...]
    """Clips asked for that were there before."""
    failed: tuple[Failure, ...]
    """Clips that were left out."""
    gave_up: bool
    """True where the run stopped early, after too many failures in a row."""
    frames: int
    """Frames that the teacher looked at."""
    wall_s: float
    images_s: float
    """Seconds that the teacher waited for images."""
    disk_s: float
    """Seconds that the teacher waited for the disk."""


def extract(selection: Selection, teacher: Teacher, path: Path, *, slots: int = 1) -> ExtractionReport:
    """Run the teacher over the selected clips and write what it says to the dataset at ``path``.

    Safe to stop at any instant and to run again: committed clips are skipped, all others start from their
    first frame.

    Args:
        selection: Raw clips; those that could not even be opened are reported with the rest.
        teacher: Who looks at the frames.
        path: The dataset's folder; made if it does not exist.
        slots: Clips that advance in lock-step.

    Raises:
        IdentityError: The dataset was made by another teacher.
        DatasetError: The disk refuses, or another process writes to the dataset.
    """
    manifest, assets = describe(teacher, selection.data)
    with DatasetWriter(path, manifest, assets) as dataset:
        present = set(dataset.committed())
        todo = [clip for clip in selection.clips if clip.name not in present]
        with _Run(todo, teacher, dataset, slots, selection.failures) as run:
            run.loop()
    return run.report(present=tuple(clip.name for clip in selection.clips if clip.name in present))


def describe(teacher: Teacher, data: DataIdentity) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest of what this teacher makes from this data, and the bytes of its assets."""
    files = {f"{stem}.safetensors": save(tensors) for stem, tensors in teacher.assets().items()}
    manifest = Manifest(
        features=(*teacher.features, *TRUTH),
        teacher=teacher.identity,
        data=data,
        code=CodeIdentity(
            teachonce=importlib.metadata.version("teachonce"),
            libraries={name: importlib.metadata.version(name) for name in ("torch", "transformers", "zarr")},
        ),
        assets=tuple(
            AssetSpec(name=name, sha256=sha256_bytes(content), nbytes=len(content))
            for name, content in sorted(files.items())
        ),
    )
    return manifest, files


class _Run:
    """The state of one extraction: what waits, what is in the slots, what is being written."""

    def __init__(
        self,
        todo: Sequence[SelectedClip],
        teacher: Teacher,
        dataset: DatasetWriter,
        slots: int,
        failures: Sequence[Failure],
    ) -> None:
        self.teacher = teacher
        self.dataset = dataset
        self.slots: list[SlotClip | None] = [None] * slots
        self.waiting = [deque(clip for clip in todo if clip.rank % slots == slot) for slot in range(slots)]
        self.writers: dict[str, ClipWriter] = {}
        self.writes: deque[tuple[str, Future]] = deque()
        self.committed: list[str] = []
        self.failed = list(failures)
        self.in_a_row = 0
        self.frames = 0
        self.images_s = self.disk_s = 0.0
        self.readers = ThreadPoolExecutor(max(2, os.cpu_count() or 1), thread_name_prefix="read")
        self.behind = ThreadPoolExecutor(1, thread_name_prefix="write")
        self.opening = [self._read_ahead(slot) for slot in range(slots)]
        self.progress = FrameProgress(sum(clip.frames for clip in todo), "extract")

    def __enter__(self) -> _Run:
        self.begun = time.perf_counter()
        self.progress.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.readers.shutdown(cancel_futures=True)
        self.behind.shutdown(cancel_futures=True)
        self.progress.__exit__()

    @property
    def gave_up(self) -> bool:
        return self.in_a_row >= GIVE_UP_AFTER

    def report(self, present: tuple[str, ...]) -> ExtractionReport:
        return ExtractionReport(
            committed=tuple(self.committed),
            present=present,
            failed=tuple(self.failed),
            gave_up=self.gave_up,
            frames=self.frames,
            wall_s=self.wall_s,
            images_s=self.images_s,
            disk_s=self.disk_s,
        )

    @torch.inference_mode()
    def loop(self) -> None:
        state = self.teacher.begin(len(self.slots))
        idle = idle_sight(self.teacher.images)
        tick = time.perf_counter()
        while not self.gave_up:
            sights = [self._next_sight(slot) for slot in range(len(self.slots))]
            active = [job for job, sight in zip(self.slots, sights, strict=True) if job and sight]
            if not active:
                break
            features, state = self.teacher.step(frame_batch([sight or idle for sight in sights]), state)
            said = {name: values.cpu().numpy() for name, values in features.items()}
            tick, before = time.perf_counter(), tick
            for slot, job in enumerate(self.slots):
                if job and sights[slot]:
                    job.wall_s += (tick - before) / len(active)
                    self._write(slot, job, {name: values[slot : slot + 1] for name, values in said.items()})
            self.frames += len(active)
            self._settle(WRITES_BEHIND)
            self.progress.advance(len(active), self._status())
        self._settle(0)
        self.progress.advance(0, self._status())
        self.wall_s = time.perf_counter() - self.begun

    def _next_sight(self, slot: int) -> Sight | None:
        """The next frame of the slot's clip, or of the next readable clip; None when none is left."""
        begun = time.perf_counter()
        try:
            while not self.gave_up:
                job = self.slots[slot]
                try:
                    job = job or self._open(slot)
                    self.slots[slot] = job
                    return job.sight() if job else None
                except ClipError as error:
                    self.slots[slot] = None
                    if job:
                        job.cancel()
                        self._fail(job.clip.name, error, unseen=job.frames - job.frame)
            return None
        finally:
            self.images_s += time.perf_counter() - begun

    def _open(self, slot: int) -> SlotClip | None:
        """Begin the slot's next clip that can be read, and parse the annotations of the one after it."""
        while not self.gave_up and (opening := self.opening[slot]):
            clip, reading = opening
            self.opening[slot] = self._read_ahead(slot)
            try:
                annotations = reading.result()
            except ClipError as error:
                self._fail(clip.name, error, unseen=clip.frames)
                continue
            parts = clip.raw.parts
            info = ClipInfo(
                name=clip.name,
                frames=clip.frames,
                split=clip.split,
                scenario=parts.scenario,
                town=parts.town,
                route=str(parts.route),
                weather=str(parts.weather),
            )
            writer = self.writers[clip.name] = self.dataset.clip(info)
            self.writes.append((clip.name, self.behind.submit(writer.append, annotations.truth())))
            return SlotClip(clip.raw, annotations, self.teacher.images, self.readers)
        return None

    def _read_ahead(self, slot: int) -> tuple[SelectedClip, Future[ClipAnnotations]] | None:
        if not self.waiting[slot]:
            return None
        clip = self.waiting[slot].popleft()
        return clip, self.readers.submit(read_annotations, clip.raw)

    def _write(self, slot: int, job: SlotClip, values: dict[str, np.ndarray]) -> None:
        name = job.clip.name
        writer = self.writers.get(name)
        if writer is None:
            # A write behind has failed: the clip is out, whatever the teacher still says about it.
            job.cancel()
            self.slots[slot] = None
            return
        self.writes.append((name, self.behind.submit(writer.append, values)))
        if job.frame == job.frames:
            self.slots[slot] = None
            self.writes.append((name, self.behind.submit(writer.commit, wall_s=job.wall_s)))

    def _settle(self, behind: int) -> None:
        """Look at finished writes; wait until at most ``behind`` are under way."""
        begun = time.perf_counter()
        while self.writes and (len(self.writes) > behind or self.writes[0][1].done()):
            name, write = self.writes.popleft()
            try:
                entry = write.result()
            except FeatureError as error:
                if name in self.writers:
                    self._fail(name, error)
                continue
            if entry is not None:
                del self.writers[name]
                self.committed.append(name)
                self.in_a_row = 0
        self.disk_s += time.perf_counter() - begun

    def _fail(self, name: str, error: TeachonceError, unseen: int = 0) -> None:
        self.failed.append(Failure(name, error.happened))
        self.in_a_row += 1
        self.progress.drop(unseen)
        self.progress.say(f"left out {name}: {error.happened}")
        if name in self.writers:
            self.behind.submit(self.writers.pop(name).abort)

    def _status(self) -> str:
        wall_s = time.perf_counter() - self.begun
        waits = (("images", self.images_s), ("disk", self.disk_s))
        shares = ", ".join(f"{100 * waited_s / wall_s:.0f}% {what}" for what, waited_s in waits)
        return (
            f"{self.frames / wall_s:.1f} frames/s, waiting {shares}; "
            f"{len(self.committed)} clips done, {len(self.failed)} left out"
        )

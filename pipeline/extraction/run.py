"""Run a teacher over clips, once: who is asked next, what is reported, and when to give up.

The work itself is done by a crew: one ``LockStep`` in this process, or many of them on a cluster. Each member
writes its own clips; only receipts come back. Clips go out through a sliding window, never all at once, so
that little is lost when a worker dies.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import queue
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from safetensors.torch import save

from cache_schema.dataset.writer import DatasetWriter
from cache_schema.errors import ClipError, DatasetError, FeatureError, LeftOut
from cache_schema.format.ledger import Ledger
from cache_schema.format.manifest import AssetSpec, CodeIdentity, DataIdentity, Manifest
from cache_schema.progress import SILENT
from cache_schema.storage.atomic_io import sha256_bytes
from cache_schema.vocabulary.driving import GROUND_TRUTH
from pipeline.extraction.log import RunLog, beside
from pipeline.extraction.worker import LockStep

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from cache_schema.errors import TeachonceError
    from cache_schema.progress import Progress
    from pipeline.extraction.worker import Receipt
    from pipeline.source import SelectedClip, Selection
    from pipeline.teachers.protocol import Teacher

CLIPS_AHEAD = 2
"""Clips a slot: one that is looked at, and one whose first frames are being read."""
GIVE_UP_AFTER = 3
"""Clips that may fail in a row: by then it is the disk or the data set, not the clip."""
LIBRARIES = ("torch", "transformers", "pillow", "zarr")
"""Libraries that decide numbers."""
LOOK_EVERY_S = 0.5
"""Seconds between two looks at how far the crew is."""


class Pending(Protocol):
    """A receipt that is still to come, as ``concurrent.futures`` knows it."""

    def result(self) -> Receipt:
        """The receipt, or whatever kept it from being written."""
        ...

    def add_done_callback(self, fn: Callable[..., object], /) -> object:
        """Call ``fn`` once ``result`` answers at once."""
        ...


class Crew(Protocol):
    """Whoever looks at clips."""

    workers: int
    """Members, each with a teacher and all the slots, at the last muster."""
    frames: int
    """Frames looked at so far, as far as is known."""

    def muster(self) -> None:
        """Find out who is there; clips of the dead go to the living."""
        ...

    def submit(self, clip: SelectedClip) -> Pending:
        """Have a clip looked at."""
        ...


DEADLY = ClipError(
    "every worker that looks at it dies",
    expected="a clip that a worker survives",
    repair="look at the workers' logs, and at this clip's files",
)


class WorkerDiedError(Exception):
    """The workers that looked at a clip died, one after the other."""


@dataclass(frozen=True)
class ExtractionReport:
    """How a run ended."""

    committed: tuple[str, ...]
    """Clips that this run added."""
    present: tuple[str, ...]
    """Clips asked for that were there before."""
    failed: tuple[LeftOut, ...]
    """Clips that were left out."""
    gave_up: bool
    """True where the run stopped early, after too many failures in a row."""
    frames: int
    """Frames of the clips that it added."""
    wall_s: float
    workers: int
    images_s: float
    """Seconds that teachers waited for images, all workers together."""
    disk_s: float
    """Seconds that teachers waited for the disk, all workers together."""


def extract(
    selection: Selection,
    teacher: Teacher,
    path: Path,
    *,
    slots: int = 1,
    progress: Progress = SILENT,
) -> ExtractionReport:
    """Run a teacher in this process over the selected clips; write what it says to the dataset at ``path``.

    Safe to stop at any instant and to run again: committed clips are skipped, all others start from their
    first frame.

    Args:
        selection: Raw clips; those that could not even be opened are reported with the rest.
        teacher: Who looks at the frames.
        path: The dataset's folder; made if it does not exist.
        slots: Clips that advance in lock-step.
        progress: Counts frames.

    Raises:
        IdentityError: The dataset was made by another teacher.
        DatasetError: The disk refuses, or another run writes to the dataset.
    """
    with DatasetWriter(path) as writer:
        manifest, assets = describe(teacher, selection.data)
        writer.establish(manifest, assets)
        del assets
        with LockStep(teacher, path, manifest, slots) as crew:
            return supervise(selection, crew, path, slots=slots, progress=progress)


def describe(teacher: Teacher, data: DataIdentity) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest of what this teacher makes from this data, and the bytes of its assets."""
    files = {f"{stem}.safetensors": save(tensors) for stem, tensors in teacher.assets().items()}
    manifest = Manifest(
        features=(*teacher.features, *GROUND_TRUTH),
        teacher=teacher.identity,
        data=data,
        code=CodeIdentity(
            teachonce=importlib.metadata.version("teachonce"),
            libraries={name: importlib.metadata.version(name) for name in LIBRARIES},
        ),
        assets=tuple(
            AssetSpec(name=name, sha256=sha256_bytes(content), nbytes=len(content))
            for name, content in sorted(files.items())
        ),
    )
    return manifest, files


def supervise(
    selection: Selection, crew: Crew, path: Path, *, slots: int, progress: Progress = SILENT
) -> ExtractionReport:
    """Have the crew look at every selected clip that the dataset at ``path`` lacks."""
    present, stale = _committed(selection, Ledger(path))
    skip = {*present, *(failure.clip for failure in stale)}
    todo = [clip for clip in selection.clips if clip.name not in skip]
    left = sum(clip.frames for clip in todo)
    progress.expect(left)
    with RunLog(beside(path)) as log:
        crew.muster()
        log.begin(workers=crew.workers, slots=slots, clips=len(todo))
        supervisor = _Supervisor(crew, slots, log, progress, frames=left)
        begun = time.perf_counter()
        supervisor.work_through(todo)
        # Whoever was near a dying worker is asked again, alone: only one clip can be to blame then.
        suspects, supervisor.suspects = supervisor.suspects, []
        for clip in suspects:
            supervisor.work_through([clip])
        for clip in supervisor.suspects:
            supervisor.leave_out(clip, DEADLY)
        wall_s = time.perf_counter() - begun
        log.end(wall_s=wall_s)
    receipts = supervisor.receipts
    return ExtractionReport(
        committed=tuple(receipt.clip for receipt in receipts),
        present=present,
        failed=(*selection.failures, *stale, *supervisor.failed),
        gave_up=supervisor.gave_up,
        frames=sum(receipt.frames for receipt in receipts),
        wall_s=wall_s,
        workers=crew.workers,
        images_s=sum(receipt.images_s for receipt in receipts),
        disk_s=sum(receipt.disk_s for receipt in receipts),
    )


def _committed(selection: Selection, ledger: Ledger) -> tuple[tuple[str, ...], list[LeftOut]]:
    """Selected clips that are in the dataset, and those whose entry is of something else."""
    present, stale = [], []
    names = set(ledger.clips())
    for clip in selection.clips:
        if clip.name not in names:
            continue
        try:
            frames = ledger.read(clip.name).clip.frames
        except DatasetError as error:
            stale.append(LeftOut.because(clip.name, error))
            continue
        if frames == clip.frames:
            present.append(clip.name)
        else:
            reason = f"it has {clip.frames} frames, but the dataset holds it with {frames}"
            repair = f"delete ledger/{clip.name}.json to extract it again"
            stale.append(LeftOut(clip.name, reason, repair))
    return tuple(present), stale


class _Supervisor:
    """Sends clips out through a sliding window and keeps the books."""

    def __init__(self, crew: Crew, slots: int, log: RunLog, progress: Progress, *, frames: int) -> None:
        self.frames_to_do, self.frames_left_out = frames, 0
        self.crew = crew
        self.slots = slots
        self.log = log
        self.progress = progress
        self.receipts: list[Receipt] = []
        self.failed: list[LeftOut] = []
        self.suspects: list[SelectedClip] = []
        self.in_a_row = 0
        self.gave_up = False

    def work_through(self, todo: Sequence[SelectedClip]) -> None:
        """Have every clip looked at, unless too many fail in a row."""
        waiting: list[deque[SelectedClip]] = [deque() for _ in range(self.slots)]
        for clip in todo:
            waiting[clip.rank % self.slots].append(clip)
        under_way: list[set[Pending]] = [set() for _ in range(self.slots)]
        done: queue.SimpleQueue[tuple[SelectedClip, Pending]] = queue.SimpleQueue()

        def send(clip: SelectedClip) -> None:
            pending = self.crew.submit(clip)
            under_way[clip.rank % self.slots].add(pending)
            pending.add_done_callback(lambda _: done.put((clip, pending)))

        while True:
            window = CLIPS_AHEAD * max(1, self.crew.workers)
            for slot in range(self.slots):
                while waiting[slot] and len(under_way[slot]) < window:
                    send(waiting[slot].popleft())
            if not any(under_way):
                return
            if self.in_a_row >= GIVE_UP_AFTER:
                self.gave_up = True
                return
            self.crew.muster()
            with contextlib.suppress(queue.Empty):
                clip, pending = done.get(timeout=LOOK_EVERY_S)
                under_way[clip.rank % self.slots].remove(pending)
                self.settle(clip, pending)
            self.progress.reach(self.crew.frames, self.status())

    def settle(self, clip: SelectedClip, pending: Pending) -> None:
        """Enter one outcome in the books."""
        try:
            receipt = pending.result()
        except (ClipError, FeatureError) as error:
            self.leave_out(clip, error)
        except WorkerDiedError:
            self.suspects.append(clip)
        else:
            self.receipts.append(receipt)
            self.in_a_row = 0
            self.log.clip(receipt)

    def leave_out(self, clip: SelectedClip, error: TeachonceError) -> None:
        """Report a clip that cannot be made."""
        self.failed.append(LeftOut.because(clip.name, error))
        self.in_a_row += 1
        self.log.failure(self.failed[-1])
        self.frames_left_out += clip.frames
        self.progress.expect(self.frames_to_do - self.frames_left_out)
        self.progress.say(f"left out {clip.name}: {error.happened}")

    def status(self) -> str:
        """Waits and errors in a few words."""
        busy_s = sum(receipt.wall_s for receipt in self.receipts) or 1.0
        images = sum(receipt.images_s for receipt in self.receipts) / busy_s
        disk = sum(receipt.disk_s for receipt in self.receipts) / busy_s
        return (
            f"waiting {images:.0%} for images, {disk:.0%} for the disk; "
            f"{len(self.receipts)} clips done, {len(self.failed)} left out"
        )

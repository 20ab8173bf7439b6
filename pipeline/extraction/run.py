"""Run a teacher over clips, once: which clip is extracted next, what is reported, and when to give up.

The work itself is done by a pool of workers: one ``Worker`` in this process, or many of them on a cluster.
Each writes its own clips; only results come back. Clips are submitted through a sliding window, never all at
once, so that little is lost when a worker dies.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rich.console import Group
from safetensors.torch import save

from cache_schema.dataset.writer import DatasetWriter, establish
from cache_schema.errors import ClipError, FeatureError, LeftOut
from cache_schema.format.ledger import Ledger
from cache_schema.plugins import require
from cache_schema.progress import SILENT
from pipeline.committed import Candidate, Fingerprints, committed
from pipeline.extraction.log import RunLog, log_path
from pipeline.extraction.worker import Worker
from pipeline.manifest import new_manifest
from pipeline.source import fingerprint_of, inputs_of
from pipeline.teachers.protocol import check_kind, check_teacher

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from cache_schema.errors import TeachonceError
    from cache_schema.format.manifest import Manifest
    from cache_schema.progress import Progress
    from pipeline.extraction.worker import ClipResult
    from pipeline.source import Clip, Selection, Source
    from pipeline.teachers.protocol import Teacher

CLIPS_AHEAD = 2
"""Clips a slot: one that is being extracted, and one whose first samples are being prepared."""
GIVE_UP_AFTER = 3
"""Clips that may fail in a row: by then it is the disk or the data set, not the clip."""
LIBRARIES = ("torch", "transformers", "pillow", "zarr")
"""Libraries that decide the values."""
POLL_EVERY_S = 0.5
"""Seconds between two polls of the workers."""


class PendingClip(Protocol):
    """A result that is still to come; a subset of ``concurrent.futures.Future``."""

    def result(self) -> ClipResult:
        """Return the result, or raise what kept the clip from being committed."""
        ...

    def add_done_callback(self, fn: Callable[..., object], /) -> object:
        """Call ``fn`` once ``result`` returns at once."""
        ...


class WorkerPool(Protocol):
    """Workers that extract clips."""

    workers: int
    """Workers at the last refresh, each with a teacher and all the slots."""
    frames: int
    """Samples computed so far, as far as is known."""

    def refresh_workers(self) -> None:
        """Find out which workers are alive; clips of dead workers go to others."""
        ...

    def submit(self, clip: Clip) -> PendingClip:
        """Have a clip extracted."""
        ...


DEADLY = ClipError(
    "every worker that extracts it dies",
    expected="a clip that a worker survives",
    repair="read the workers' logs, and check this clip's files",
)


CHANGED = ClipError(
    "its raw files changed while it was extracted, and the dataset's clip may be made from both",
    expected="raw files that stay as they are",
    repair="delete its file in ledger/ to make it again",
)


class WorkerDiedError(Exception):
    """The workers that extracted a clip died, one after the other."""


@dataclass(frozen=True)
class ExtractionReport:
    """How a run ended."""

    committed: tuple[str, ...]
    """Clips that this run added."""
    present: tuple[str, ...]
    """Selected clips that were there before."""
    failed: tuple[LeftOut, ...]
    """Clips that were left out, and clips that the dataset has otherwise than the source."""
    gave_up: bool
    """True where the run stopped early, after too many failures in a row."""
    frames: int
    """Frames of the clips that it added."""
    wall_s: float
    workers: int
    inputs_s: float
    """Seconds that teachers waited for inputs, all workers together."""
    disk_s: float
    """Seconds that teachers waited for the disk, all workers together."""

    def __rich__(self) -> Group:
        """Show it as lines."""
        worked_s = max(self.wall_s * self.workers, 1e-9)
        return Group(
            f"{len(self.committed)} clips and {self.frames:,} frames in {self.wall_s:.1f} s "
            f"({self.frames / max(self.wall_s, 1e-9):.1f} frames/s); "
            f"{len(self.present)} clips were already there",
            f"the teacher waited {self.inputs_s / worked_s:.0%} of the time for inputs "
            f"and {self.disk_s / worked_s:.0%} for the disk",
        )


def extract(
    selection: Selection,
    teacher: Teacher,
    path: Path,
    *,
    slots: int = 1,
    progress: Progress = SILENT,
) -> ExtractionReport:
    """Run a teacher in this process over the selected clips; write its features to the dataset at ``path``.

    Safe to stop at any instant and to run again: committed clips are skipped, all others start from their
    first sample.

    Args:
        selection: Clips of a source; those that could not even be opened are reported with the rest.
        teacher: Computes the features.
        path: The dataset's folder; made if it does not exist.
        slots: Clips that advance together.
        progress: Counts frames.

    Raises:
        RequestError: The teacher cannot read the samples of this source, or the GPU's memory does not
            suffice.
        IdentityError: The dataset was made by another teacher.
        DatasetError: The disk refuses, or another run writes to the dataset.
    """
    check_kind(teacher, selection.source)
    with DatasetWriter(path):
        manifest = establish_for(teacher, selection.source, path)
        with Worker(teacher, path, manifest, slots) as pool:
            return supervise(selection, pool, path, slots=slots, progress=progress)


def establish_for(teacher: Teacher, source: Source, path: Path) -> Manifest:
    """Make the dataset of what a teacher computes from a source, or check that it is that; the path is held.

    Raises:
        RequestError: A plug-in lacks what is asked of it.
        IdentityError: The dataset was made by another teacher, or from other data.
    """
    check_teacher(teacher)
    require(source, "the source", "kind", "identity", "ground_truth", "tags", "select")
    assets = {f"{stem}.safetensors": save(dict(tensors)) for stem, tensors in teacher.assets().items()}
    features = (*teacher.features, *inputs_of(source), *source.ground_truth)
    manifest = new_manifest(
        features, teacher.identity, source.identity, assets, libraries=LIBRARIES, tags=source.tags
    )
    establish(path, manifest, assets)
    return manifest


def supervise(
    selection: Selection, pool: WorkerPool, path: Path, *, slots: int, progress: Progress = SILENT
) -> ExtractionReport:
    """Have every selected clip extracted that the dataset at ``path`` lacks."""
    for clip in selection.clips[:1]:
        require(clip, "the clip of the source", "name", "samples", "split", "tags", "index", "open")
    present, stale = committed_clips(selection, path)
    skip = {*present, *(failure.clip for failure in stale)}
    todo = [clip for clip in selection.clips if clip.name not in skip]
    frames = sum(clip.samples for clip in todo)
    progress.expect(frames)
    with RunLog(log_path(path)) as log, Fingerprints(path) as fingerprints:
        pool.refresh_workers()
        log.begin(workers=pool.workers, slots=slots, clips=len(todo))
        supervisor = _Supervisor(pool, slots, log, fingerprints, progress, frames=frames)
        supervisor.gpus = {Ledger(path).read(clip).gpu for clip in present} if todo else set()
        begun = time.perf_counter()
        supervisor.extract(todo)
        # Clips that a dying worker held are tried again, one at a time: only that clip can be to blame then.
        suspects, supervisor.suspects = supervisor.suspects, []
        for clip in suspects:
            supervisor.extract([clip])
        for clip in supervisor.suspects:
            supervisor.leave_out(clip, DEADLY)
        wall_s = time.perf_counter() - begun
        log.end(wall_s=wall_s)
    results = supervisor.results
    return ExtractionReport(
        committed=tuple(result.clip for result in results),
        present=present,
        failed=(*selection.failed, *stale, *supervisor.failed),
        gave_up=supervisor.gave_up,
        frames=sum(result.frames for result in results),
        wall_s=wall_s,
        workers=pool.workers,
        inputs_s=sum(result.inputs_s for result in results),
        disk_s=sum(result.disk_s for result in results),
    )


def committed_clips(selection: Selection, path: Path) -> tuple[tuple[str, ...], list[LeftOut]]:
    """Return the selected clips that the dataset at ``path`` has, and those that it has otherwise.

    Clips that the dataset has from another side of the split are compared, too: they may have changed sides.
    """
    selected = {clip.name for clip in selection.clips}
    clips = [*selection.clips]
    if set(Ledger(path).clips()) - selected:
        clips += (clip for clip in selection.source.select().clips if clip.name not in selected)
    present, stale = committed(path, map(_candidate, clips))
    return tuple(name for name in present if name in selected), stale


def _candidate(clip: Clip) -> Candidate:
    fingerprint = functools.partial(fingerprint_of, clip)
    return Candidate(clip.name, clip.samples, clip.split, clip.tags, fingerprint)


class _Supervisor:
    """Submits clips through a sliding window and records the results."""

    def __init__(
        self,
        pool: WorkerPool,
        slots: int,
        log: RunLog,
        fingerprints: Fingerprints,
        progress: Progress,
        *,
        frames: int,
    ) -> None:
        self.frames_to_do, self.frames_left_out = frames, 0
        self.pool = pool
        self.slots = slots
        self.log = log
        self.fingerprints = fingerprints
        self.begun_from: dict[str, str | None] = {}
        """Fingerprints of the clips that were begun."""
        self.progress = progress
        self.results: list[ClipResult] = []
        self.gpus: set[str | None] = set()
        """Models of the GPUs that computed the clips so far; None for a CPU."""
        self.failed: list[LeftOut] = []
        self.suspects: list[Clip] = []
        self.failures_in_a_row = 0
        self.gave_up = False

    def extract(self, todo: Sequence[Clip]) -> None:
        """Have every clip extracted, unless too many fail in a row."""
        waiting: list[deque[Clip]] = [deque() for _ in range(self.slots)]
        for clip in todo:
            waiting[clip.index % self.slots].append(clip)
        under_way: list[set[PendingClip]] = [set() for _ in range(self.slots)]
        done: queue.SimpleQueue[tuple[Clip, PendingClip]] = queue.SimpleQueue()

        def submit(clip: Clip) -> None:
            self.begun_from[clip.name] = fingerprint_of(clip)
            self.fingerprints.begin(clip.name, self.begun_from[clip.name])
            pending = self.pool.submit(clip)
            under_way[clip.index % self.slots].add(pending)
            pending.add_done_callback(lambda _: done.put((clip, pending)))

        while True:
            window = CLIPS_AHEAD * max(1, self.pool.workers)
            for slot in range(self.slots):
                while waiting[slot] and len(under_way[slot]) < window:
                    submit(waiting[slot].popleft())
            if not any(under_way):
                return
            if self.failures_in_a_row >= GIVE_UP_AFTER:
                self.gave_up = True
                self.progress.message("gave up after three failures in a row; other clips were not tried")
                return
            self.pool.refresh_workers()
            with contextlib.suppress(queue.Empty):
                clip, pending = done.get(timeout=POLL_EVERY_S)
                under_way[clip.index % self.slots].remove(pending)
                self.record(clip, pending)
            self.progress.reach(self.pool.frames, self.status())

    def record(self, clip: Clip, pending: PendingClip) -> None:
        """Record the result of one clip."""
        try:
            result = pending.result()
        except (ClipError, FeatureError) as error:
            self.leave_out(clip, error)
        except WorkerDiedError:
            self.suspects.append(clip)
        else:
            self.results.append(result)
            self.failures_in_a_row = 0
            self.log.clip(result)
            self.note_gpu(result)
            if fingerprint_of(clip) != self.begun_from[clip.name]:
                self.failed.append(LeftOut.because(clip.name, CHANGED))
                self.progress.message(f"{clip.name}: {CHANGED.happened}")

    def note_gpu(self, result: ClipResult) -> None:
        """Warn of the first clip that another model of GPU computed than those before it."""
        if self.gpus and result.gpu not in self.gpus:
            before = " and ".join(sorted(gpu or "a CPU" for gpu in self.gpus))
            self.progress.message(
                f"warning: {result.clip} was computed by {result.gpu or 'a CPU'}, clips before it by "
                f"{before}; they round differently: values agree to rounding, bits do not"
            )
        self.gpus.add(result.gpu)

    def leave_out(self, clip: Clip, error: TeachonceError) -> None:
        """Record a clip that cannot be extracted."""
        self.failed.append(LeftOut.because(clip.name, error))
        self.failures_in_a_row += 1
        self.log.failure(self.failed[-1])
        self.frames_left_out += clip.samples
        self.progress.expect(self.frames_to_do - self.frames_left_out)
        self.progress.message(f"left out {clip.name}: {error.happened}")

    def status(self) -> str:
        """Return waits and failures in a few words."""
        busy_s = sum(result.wall_s for result in self.results) or 1.0
        inputs = sum(result.inputs_s for result in self.results) / busy_s
        disk = sum(result.disk_s for result in self.results) / busy_s
        return (
            f"waiting {inputs:.0%} for inputs, {disk:.0%} for the disk; "
            f"{len(self.results)} clips done, {len(self.failed)} left out"
        )

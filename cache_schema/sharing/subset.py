"""A part of a dataset as a dataset of its own: some clips, or every n-th frame of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Self

from cache_schema.dataset.blocks import frame_blocks
from cache_schema.dataset.copy_clips import Copied, asset_files, copy_clip, refuse_conflicts
from cache_schema.dataset.reader import LatentDataset
from cache_schema.dataset.writer import DatasetWriter
from cache_schema.errors import RequestError
from cache_schema.format.limits import FRAMES
from cache_schema.progress import SILENT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from cache_schema.dataset.clip_writer import ClipWriter
    from cache_schema.format.ledger import ClipInfo, LedgerEntry
    from cache_schema.progress import Progress


@dataclass(frozen=True)
class ClipFilter:
    """Which clips: patterns with ``*`` and ``?``, all of which have to match. None matches all."""

    split: str | None = None
    clips: str | None = None
    """Pattern of the clip's name."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Pattern by the tag's name; a clip without the tag has an empty text there."""

    def matches(self, clip: ClipInfo) -> bool:
        """Return whether a clip is chosen."""
        texts = [(clip.split, self.split), (clip.name, self.clips)]
        texts += [(clip.tags.get(tag, ""), pattern) for tag, pattern in self.tags.items()]
        return all(pattern is None or fnmatchcase(text, pattern) for text, pattern in texts)


ALL = ClipFilter()
"""Every clip."""


def parse_tags(texts: Iterable[str]) -> dict[str, str]:
    """Parse ``NAME=PATTERN`` options of a command line.

    Raises:
        RequestError: One has another form.
    """
    patterns = {}
    for text in texts:
        name, equals, pattern = text.partition("=")
        if not (name and equals):
            raise RequestError(
                f"the tag {text!r} does not parse",
                expected="NAME=PATTERN, as in town='Town0*'",
                repair="write the tag's name, an equals sign and a pattern",
            )
        patterns[name] = pattern
    return patterns


@dataclass(frozen=True)
class Part:
    """One of ``count`` parts of a list of clips, whose lengths differ by one clip at most."""

    number: int
    """From 1 on."""
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``k/N``.

        Raises:
            RequestError: It is something else.
        """
        number, slash, count = text.partition("/")
        if slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
            return cls(int(number), int(count))
        raise RequestError(
            f"the part {text!r} does not parse",
            expected="k/N with k from 1 to N, as in 2/5",
            repair="write the part as k/N",
        )

    def of(self, names: list[str]) -> list[str]:
        """Return every ``count``-th name: neighbours, which resemble each other, go to different parts."""
        return names[self.number - 1 :: self.count]


def subset(
    source: Path,
    out: Path,
    which: ClipFilter = ALL,
    *,
    every: int = 1,
    part: Part | None = None,
    progress: Progress = SILENT,
) -> Copied:
    """Write a part of a dataset. Run again, it goes on where it stopped.

    Whole clips are copied digest for digest, and the part has the identity of the whole: parts can be merged.
    Clips of every n-th frame are written anew, and the manifest has the n as ``frame_step``, which is part of
    the identity: they can be merged with each other, never with whole clips.

    Args:
        source: Folder of the dataset to choose from. It stays as it is.
        out: Folder of the part; made if it does not exist.
        which: Clips to choose.
        every: Hold frames 0, n, 2n, ... of those that the source holds.
        part: Which of several parts of the chosen clips.
        progress: Counts clips.

    Raises:
        RequestError: No clip is chosen, ``every`` is no number of frames, or frames share values.
        IdentityError: The dataset at ``out`` has another identity, or holds a clip with other content.
        DatasetError: The source is damaged, ``out`` is being written by another run, or the disk refuses.
    """
    dataset = LatentDataset.open(source)
    frame_step = dataset.manifest.frame_step * every
    if not 1 <= frame_step <= FRAMES:
        raise RequestError(
            f"one frame in {frame_step} makes no sense",
            expected=f"1 for all frames, n for every n-th, up to {FRAMES:,}",
            repair="correct the number",
        )
    shared = [spec.name for spec in dataset.manifest.features if spec.stored_at is not None]
    if every > 1 and shared:
        raise RequestError(
            f"one frame in {every} of {source} cannot be chosen: frames share values of {', '.join(shared)}",
            expected="features whose frames store a value each",
            repair="choose whole clips, or fetch the other features first: "
            f"`teachonce pull {source} OUT --features ...`",
        )
    chosen = _choose(dataset, which, part)
    manifest = dataset.manifest.replace(frame_step=frame_step)
    with DatasetWriter(out, manifest, asset_files(dataset, out)) as writer:
        present = set(writer.committed()).intersection(chosen)
        if every == 1:
            refuse_conflicts([LatentDataset.open(out), dataset])
        todo = [clip for clip in chosen if clip not in present]
        nbytes = 0
        progress.expect(len(todo))
        for clip in todo:
            if every == 1:
                nbytes += copy_clip(dataset.backend, dataset.entry(clip), out, manifest).nbytes
            else:
                info = dataset.clip(clip)
                thinned = info.model_copy(update={"frames": math.ceil(info.frames / every)})
                nbytes += _thin_out(dataset, writer.clip(thinned), every).nbytes
            progress.advance()
    return Copied(added=tuple(todo), present=tuple(sorted(present)), nbytes=nbytes, path=out)


def _choose(dataset: LatentDataset, which: ClipFilter, part: Part | None) -> list[str]:
    # By name first: of 20,000 clips, entries are read of those that may be chosen.
    named = [name for name in dataset.clips if which.clips is None or fnmatchcase(name, which.clips)]
    chosen = [name for name in named if which.matches(dataset.clip(name))]
    chosen = chosen if part is None else part.of(chosen)
    if not chosen:
        infos = [dataset.clip(name) for name in dataset.clips]
        there = {"split": {info.split for info in infos}}
        for tag in sorted({tag for info in infos for tag in info.tags}):
            there[tag] = {info.tags.get(tag, "unknown") for info in infos}
        raise RequestError(
            f"no clip of {dataset.path} is chosen",
            expected="; ".join(f"{name} {', '.join(sorted(values))}" for name, values in there.items()),
            repair="correct the patterns, or ask for fewer parts than there are clips",
        )
    return chosen


def _thin_out(dataset: LatentDataset, clip: ClipWriter, every: int) -> LedgerEntry:
    """Write every ``every``-th frame of a clip as it is stored, so that no encoding is applied twice."""
    name = clip.info.name
    for spec in dataset.manifest.features:
        for frames in frame_blocks(dataset, name, spec.name, every=every):
            clip.append_stored(spec.name, dataset.stored(name, spec.name, frames))
    entry = dataset.entry(name)
    return clip.commit(wall_s=entry.wall_s, gpu=entry.gpu)

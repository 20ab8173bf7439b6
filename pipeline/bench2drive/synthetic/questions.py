"""Questions about synthetic clips in Drive-KD's form, with options: ``Final: {B. Option.}`` and why.

Where an answer is commoner than all others of its kind of question together, some of its entries are dropped.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cache_schema.errors import RequestError
from cache_schema.progress import SILENT
from cache_schema.storage.paths import refuse_inside_store
from pipeline.bench2drive.clips import find_clips
from pipeline.bench2drive.source import Bench2Drive
from pipeline.bench2drive.splits import split_of, validation_clips
from pipeline.bench2drive.synthetic.moments import read_moment
from pipeline.bench2drive.synthetic.question_kinds import KINDS
from pipeline.source import absolute

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cache_schema.format.ledger import Split
    from cache_schema.progress import Progress
    from pipeline.bench2drive.clips import RawClip
    from pipeline.bench2drive.synthetic.question_kinds import Kind


ONE_ANSWER = "none: all have the same answer"
"""Shown of a kind of question of which nothing is left."""


@dataclass(frozen=True)
class Answers:
    """How often each answer was given, by side of the split and name of the kind.

    It is empty where all answers were the same, and so were dropped.
    """

    counts: Mapping[tuple[Split, str], Counter[str]]

    def share_of_commonest(self, split: Split) -> float:
        """Return the share of right answers if the commonest of its kind is always given; 0 without any."""
        counts = [counter for (side, _), counter in self.counts.items() if side == split and counter]
        return sum(max(counter.values()) for counter in counts) / max(1, sum(map(Counter.total, counts)))

    def __str__(self) -> str:
        lines = [
            f"{split} {name}: "
            + (", ".join(f"{answer} {number}" for answer, number in sorted(counter.items())) or ONE_ANSWER)
            for (split, name), counter in self.counts.items()
        ]
        lines += [
            f"{split}: the commonest answer of each kind is right in {self.share_of_commonest(split):.1%}"
            for split in dict.fromkeys(split for split, _ in self.counts)
        ]
        return "\n".join(lines)


@dataclass(frozen=True)
class _Asked:
    clip: RawClip
    frame: int
    split: Split
    kind: Kind
    place: int
    why: str


def write_demo_questions(
    root: Path, file: Path, *, every: int = 5, seed: int = 0, progress: Progress = SILENT
) -> Answers:
    """Write questions about the clips that ``write_demo_data`` wrote.

    Args:
        root: Their data root.
        file: The JSON to write. Its paths of images are relative to its folder.
        every: Ask about one frame in so many.
        seed: Chooses which of too common answers are dropped. Equal seeds give equal bytes.
        progress: Counts clips.

    Raises:
        ClipError: There are no clips, or an annotation is broken.
        RequestError: ``every`` or the seed make no sense, or the file exists with other content.
    """
    if every < 1 or seed < 0:
        raise RequestError(
            f"one frame in {every} with seed {seed} cannot be asked about",
            expected="one frame in 1 or more, and a seed of 0 or more",
            repair="give larger numbers",
        )
    source, file = Bench2Drive(root), absolute(file)
    refuse_inside_store(file)
    validation = validation_clips(source.root)
    asked: list[_Asked] = []
    clips = find_clips(source.root).clips
    progress.expect(len(clips))
    for clip in clips:
        asked += _ask(clip, split_of(clip.name, validation), every)
        progress.advance(1, clip.name)
    before = _count(asked)
    asked = _balanced(asked, np.random.default_rng(seed))
    left = _count(asked)
    name = f"questions about one frame in {every} of {source.identity.name}; seed {seed}"
    entries = [_entry(question, file.parent) for question in asked]
    content = {"name": name, "licence": source.identity.licence, "data": entries}
    _write(file, json.dumps(content, indent=1) + "\n")
    return Answers({key: left.get(key, Counter()) for key in before})


def _ask(clip: RawClip, split: Split, every: int) -> list[_Asked]:
    moments = [read_moment(clip.annotation_path(frame)) for frame in clip.frames]
    return [
        _Asked(clip, frame, split, kind, *answer)
        for frame in clip.frames[::every]
        for kind in KINDS
        if (answer := kind.answer(moments, frame)) is not None
    ]


def _count(asked: Sequence[_Asked]) -> dict[tuple[Split, str], Counter[str]]:
    counts: dict[tuple[Split, str], Counter[str]] = {}
    for question in asked:
        counter = counts.setdefault((question.split, question.kind.name), Counter())
        counter[question.kind.lettered(question.place)] += 1
    return counts


def _balanced(asked: list[_Asked], rng: np.random.Generator) -> list[_Asked]:
    """Drop some of an answer that is given more often than all others of its kind and side together."""
    dropped: set[int] = set()
    for (split, name), counter in _count(asked).items():
        (commonest, number), *_ = counter.most_common(1)
        surplus = 2 * number - counter.total()
        if surplus > 0:
            places = [
                place
                for place, question in enumerate(asked)
                if (question.split, question.kind.name) == (split, name)
                and question.kind.lettered(question.place) == commonest
            ]
            dropped |= set(rng.choice(places, surplus, replace=False).tolist())
    return [question for place, question in enumerate(asked) if place not in dropped]


def _entry(asked: _Asked, folder: Path) -> dict[str, object]:
    kind = asked.kind
    options = " ".join(kind.lettered(place) for place in range(len(kind.options)))
    question = f"{'<image>' * len(kind.views)}{kind.question} {options}"
    answer = f"Final: {{{kind.lettered(asked.place)}}}\n{asked.why}"
    # What `..` leads to is decided by the disk, behind all links.
    way = os.path.relpath(os.path.realpath(asked.clip.path), os.path.realpath(folder))
    images = [asked.clip.image_path(camera, asked.frame) for camera in kind.views]
    return {
        "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        "images": [os.path.join(way, image.relative_to(asked.clip.path)) for image in images],
        "question_type": kind.capability,
        "scene": asked.clip.name,
        "frame": asked.frame,
        "split": asked.split,
        "question_id": KINDS.index(kind) + 1,
    }


def _write(file: Path, text: str) -> None:
    if file.exists() and (not file.is_file() or file.read_bytes() != text.encode()):
        raise RequestError(
            f"{file} exists, and holds something else",
            expected="a new file for the questions",
            repair="choose another file, or remove this one",
        )
    partial = file.with_name(f".{file.name}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, "utf-8")
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)

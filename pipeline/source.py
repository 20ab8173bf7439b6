"""The source seam: raw data as clips of samples, and the ground truth beside them.

A source finds clips and knows what is true of them. What a teacher gets of it is one sample at a time, paths
or text or calibration, and the type of a sample has no field for ground truth.

Some of what a sample holds, a student may have to read itself, whatever the teacher makes of it. A source may
offer such *inputs* of samples, to be asked for by name: then it has a method ``with_inputs``, a property
``inputs``, and its opened clips a method ``inputs``. Without them it decodes nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from cache_schema.errors import RequestError
from cache_schema.plugins import resolve

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    from cache_schema.errors import LeftOut
    from cache_schema.format.features import FeatureSpec
    from cache_schema.format.ledger import Split
    from cache_schema.format.manifest import DataIdentity

SplitChoice = Literal["train", "val", "all"]

SOURCES = {"bench2drive": "pipeline.bench2drive.source:Bench2Drive"}
"""Name -> class that is constructed with the path of a data root."""


class OpenClip(Protocol):
    """A clip whose small files have been read."""

    def ground_truth(self) -> Mapping[str, np.ndarray | Sequence[np.ndarray]]:
        """Return every feature that the source promises: (samples, *shape), or one array a sample if ragged.

        The caller copies the arrays at once: the same thread may use their memory again, for another clip.

        Raises:
            ClipError: The clip's files contradict each other.
        """
        ...

    def sample(self, index: int) -> Any:
        """Return what a teacher may see of one sample. Called by several threads at once.

        It is prepared at once: the same thread may use its memory again, for the next sample.

        Raises:
            ClipError: A file of this sample is missing or broken.
        """
        ...


class OpenClipWithInputs(OpenClip, Protocol):
    """An opened clip of a source that has inputs."""

    def inputs(self, sample: Any) -> Mapping[str, np.ndarray]:
        """Return the inputs of a sample, as many as the source promises: arrays of their ``shape``.

        Called in the thread that prepared the sample, right afterwards.

        Raises:
            ClipError: A file of this sample is missing or broken.
        """
        ...


class Clip(Protocol):
    """A clip that can be opened. It is pickled to travel to worker processes.

    It may have a method ``fingerprint``, see ``fingerprint_of``.
    """

    @property
    def name(self) -> str:
        """Name, unique in the source."""
        ...

    @property
    def samples(self) -> int:
        """Number of samples: the frames of a video, the questions about a scene."""
        ...

    @property
    def split(self) -> Split:
        """Side of the train/validation split."""
        ...

    @property
    def tags(self) -> Mapping[str, str]:
        """What else is known of the clip, by name of the tag."""
        ...

    @property
    def index(self) -> int:
        """Place among all clips of the source, selected or not. It decides the slot, so it must be stable."""
        ...

    def open(self) -> OpenClip:
        """Read the clip's small files.

        Raises:
            ClipError: One of them is missing or broken.
        """
        ...


class Source(Protocol):
    """A folder of raw data. It is pickled to travel to worker processes."""

    @property
    def kind(self) -> str:
        """What its samples are, such as ``driving``; only a teacher of the same kind can read them."""
        ...

    @property
    def identity(self) -> DataIdentity:
        """Goes into the manifest, and must agree when a dataset is resumed."""
        ...

    @property
    def ground_truth(self) -> tuple[FeatureSpec, ...]:
        """Features that its clips hold beside their samples; may be empty."""
        ...

    @property
    def tags(self) -> tuple[str, ...]:
        """Names of the tags that its clips may have."""
        ...

    def select(self, split: SplitChoice = "all") -> Selection:
        """Return the clips of a split, in an order that does not change.

        Raises:
            ClipError: There is no clip at all.
            RequestError: There is none of this split.
        """
        ...


class SourceWithInputs(Source, Protocol):
    """A source that offers inputs of samples."""

    @property
    def inputs(self) -> tuple[FeatureSpec, ...]:
        """Inputs of every sample, as they were asked for. They depend on nothing but the sample."""
        ...

    def with_inputs(self, names: Sequence[str]) -> SourceWithInputs:
        """Return the same source with some inputs.

        Raises:
            RequestError: There is no such input.
        """
        ...


@dataclass(frozen=True)
class Selection:
    """The clips of one run."""

    source: Source
    clips: tuple[Clip, ...]
    """Clips that can be opened, in the source's order."""
    failed: tuple[LeftOut, ...] = ()
    """Clips that cannot be opened."""
    notes: tuple[str, ...] = ()
    """Sentences for the user about what was found."""

    @property
    def samples(self) -> int:
        """Samples of all clips."""
        return sum(clip.samples for clip in self.clips)


def open_source(name: str, root: Path) -> Source:
    """Return a source by name, or one of the user's own by ``package.module:Class``, over a data root."""
    return resolve(SOURCES, name, kind="source", needs="select")(absolute(root))


def with_inputs(source: Source, names: Sequence[str]) -> Source:
    """Return a source with inputs of every sample, by their names.

    Raises:
        RequestError: There is no such input, or this source offers none.
    """
    if not names:
        return source
    chosen = getattr(source, "with_inputs", None)
    if chosen is None:
        raise RequestError(
            f"{', '.join(names)} were asked for, and {type(source).__qualname__} has no inputs of its own",
            expected="a source with a method 'with_inputs', such as bench2drive",
            repair="leave --inputs out, or choose another --source",
        )
    return chosen(names)


def inputs_of(source: Source) -> tuple[FeatureSpec, ...]:
    """Return the features of what a source says of every sample beside the teacher."""
    return getattr(source, "inputs", ())


def fingerprint_of(clip: Clip) -> str | None:
    """Return a digest of the raw files of a clip, by which another recording under its name is recognised.

    It must not depend on where the files lie. None for the clips of a source without ``Clip.fingerprint``.
    """
    fingerprint = getattr(clip, "fingerprint", None)
    return None if fingerprint is None else fingerprint()


def absolute(path: Path) -> Path:
    """Return a path that means the same to processes in other folders, with its links as the user wrote them.

    What a folder is called matters to a source, and the shell's working folder may itself be behind a link.
    """
    shell, here = Path(os.environ.get("PWD", "")), Path.cwd()
    path = (shell if shell.is_absolute() and shell.exists() and shell.samefile(here) else here) / path
    # Above a link lies another folder than it is written to be: what leads to the last `..` is resolved.
    up = max((place for place, part in enumerate(path.parts, 1) if part == ".."), default=0)
    return Path(*path.parts[:up]).resolve().joinpath(*path.parts[up:]) if up else path

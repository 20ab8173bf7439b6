"""Every byte against the ledger, every array against the manifest."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import zarr

from cache_schema.clip_writer import PARTIAL
from cache_schema.durable import sha256_of
from cache_schema.errors import DatasetError
from cache_schema.layout import fill_value_of, layout_of
from cache_schema.store import LatentDataset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cache_schema.features import FeatureSpec
    from cache_schema.ledger import LedgerEntry


@dataclass(frozen=True)
class Problem:
    """One thing that is not as promised."""

    clip: str | None
    """Clip that it concerns; None for the dataset as a whole."""
    feature: str | None
    """Feature that it concerns; None for the clip as a whole."""
    what: str
    """What is wrong."""


@dataclass(frozen=True)
class Verification:
    """What a verification looked at, and what it found."""

    clips: int
    frames: int
    nbytes: int
    problems: tuple[Problem, ...]


def verify(
    path: Path,
    *,
    quick: bool = False,
    threads: int | None = None,
    on_clip: Callable[[str], None] = lambda _: None,
) -> Verification:
    """Check a dataset against its own ledger and manifest.

    Args:
        path: The dataset's folder.
        quick: Compare only the sizes of files, not their digests.
        threads: Clips checked at the same time; one a core by default.
        on_clip: Called with the name of every clip once it is checked.

    Returns:
        What was looked at, and every problem found; none means that the dataset is as it was written.

    Raises:
        DatasetError: There is no readable manifest, so that nothing can be checked.
    """
    dataset = LatentDataset.open(path)
    problems = [*_dataset_problems(dataset)]
    entries: list[LedgerEntry] = []
    for clip in dataset.clips:
        try:
            entries.append(dataset.entry(clip))
        except DatasetError as error:
            problems.append(Problem(clip, None, error.happened))

    def check(entry: LedgerEntry) -> list[Problem]:
        found = [*_file_problems(path, entry, quick=quick), *_array_problems(dataset, entry)]
        on_clip(entry.clip.name)
        return found

    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        for found in pool.map(check, entries):
            problems += found
    return Verification(
        clips=len(entries),
        frames=sum(entry.clip.frames for entry in entries),
        nbytes=sum(entry.nbytes for entry in entries),
        problems=tuple(problems),
    )


def _dataset_problems(dataset: LatentDataset) -> Iterator[Problem]:
    for asset in dataset.manifest.assets:
        try:
            dataset.asset(asset.name.removesuffix(".safetensors"))
        except DatasetError as error:
            yield Problem(None, None, error.happened)
    committed = set(dataset.clips)
    for folder in sorted((dataset.path / "clips").glob("*/")):
        if folder.name not in committed:
            yield Problem(folder.name, None, "the clip has a folder, but no entry in the ledger")
    for folder in sorted((dataset.path / PARTIAL).glob("*/*")):
        yield Problem(folder.name, None, "the clip was never finished; the next extraction clears it")


def _file_problems(path: Path, entry: LedgerEntry, *, quick: bool) -> Iterator[Problem]:
    folder = path / "clips" / entry.clip.name
    for name, record in entry.files.items():
        file = folder / name
        feature = name.split("/")[0] if "/" in name else None
        if not file.is_file():
            yield Problem(entry.clip.name, feature, f"{name} is missing")
        elif (size := file.stat().st_size) != record.nbytes:
            yield Problem(entry.clip.name, feature, f"{name} has {size} bytes instead of {record.nbytes}")
        elif not quick and sha256_of(file) != record.sha256:
            yield Problem(entry.clip.name, feature, f"{name} holds other bytes than were written")
    if folder.is_dir():
        there = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
        for name in sorted(there - set(entry.files)):
            yield Problem(entry.clip.name, name.split("/")[0], f"{name} is not in the ledger")


def _array_problems(dataset: LatentDataset, entry: LedgerEntry) -> Iterator[Problem]:
    for spec in dataset.manifest.features:
        try:
            wrong = _promise_broken(
                dataset.path / "clips" / entry.clip.name / spec.name, spec, entry.clip.frames
            )
        except (ValueError, KeyError, TypeError, OSError) as error:
            wrong = f"the array cannot be opened: {error}"
        if wrong:
            yield Problem(entry.clip.name, spec.name, wrong)


def _promise_broken(folder: Path, spec: FeatureSpec, frames: int) -> str | None:
    array = zarr.open_array(folder, mode="r")
    layout = layout_of(spec, frames)
    metadata = array.metadata
    there = (
        array.shape,
        str(array.dtype),
        array.chunks,
        array.shards,
        getattr(metadata, "dimension_names", None),
    )
    promised = ((frames, *spec.shape), spec.dtype, *layout, ("frame", *spec.axes))
    if there != promised:
        return f"the array is {there}, the manifest promises {promised}"
    if not np.array_equal(array.fill_value, fill_value_of(spec), equal_nan=spec.dtype.startswith("float")):
        return f"the fill value is {array.fill_value}, which hides missing chunks"
    return None

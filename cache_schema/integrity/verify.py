"""Every byte against the ledger, every array against the manifest.

A dataset is checked without Zarr, so that nothing in it is acted upon: names, sizes and the zarr.json of
every array follow from the manifest and the lengths of clips, and are compared with what is there.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from cache_schema.dataset.commit import PARTIAL
from cache_schema.dataset.reader import read_manifest
from cache_schema.dataset.writer import clips_group_wrong
from cache_schema.errors import DatasetError
from cache_schema.format.ledger import Ledger
from cache_schema.integrity.clip_check import clip_problems
from cache_schema.integrity.listing import FILE, FOLDER, listing, printable
from cache_schema.integrity.problem import Problem, problem_table, reason_of
from cache_schema.processors import usable_processors
from cache_schema.progress import SILENT
from cache_schema.storage.atomic_io import sha256_of
from cache_schema.storage.local_folder import LocalBackend
from cache_schema.storage.stray_files import is_stray
from cache_schema.terminal import size

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rich.console import RenderableType

    from cache_schema.format.manifest import AssetSpec, Manifest
    from cache_schema.progress import Progress

ROOT = {
    "zarr.json": FILE,
    "README.md": FILE,
    "index.json": FILE,
    "clips": FOLDER,
    "ledger": FOLDER,
    "assets": FOLDER,
}
"""Entries of a dataset's folder. Hidden names belong to writers at work and to file-transfer tools."""


@dataclass(frozen=True)
class Verification:
    """Result of a verification."""

    clips: int
    frames: int
    nbytes: int
    problems: tuple[Problem, ...]
    """Every problem found; none means that the dataset is as it was written."""
    notes: tuple[Problem, ...] = ()
    """What lies in the dataset, is no part of it and hurts nobody."""

    def __rich__(self) -> RenderableType:
        """Show it in a line, or as a table of problems."""
        checked = f"{self.clips} clips, {self.frames:,} frames, {size(self.nbytes)}"
        if not self.problems:
            notes = [f"note: {note.clip or 'dataset'}: {note.what}" for note in self.notes]
            return "\n".join([f"{checked}: all as written", *notes])
        return problem_table(self.problems, f"{checked}: {len(self.problems)} problems")


def verify(
    path: Path,
    *,
    quick: bool = False,
    threads: int | None = None,
    progress: Progress = SILENT,
) -> Verification:
    """Check a dataset against its own ledger and manifest.

    Args:
        path: The dataset's folder.
        quick: Compare names, sizes and metadata, but read no values and no asset.
        threads: Clips checked at the same time; by default two a core, so that one hashes while another waits
            for the disk, and one where nothing is hashed.
        progress: Counts clips.

    Raises:
        DatasetError: There is no readable manifest, so that nothing can be checked.
    """
    manifest = read_manifest(path)
    ledger = Ledger(path)
    problems = [*_root_problems(path)]
    try:
        clips = ledger.clips()
    except DatasetError as error:
        problems.append(Problem(None, None, error.happened))
        clips = ()
    problems += _dataset_problems(path, manifest, set(clips), quick=quick)

    def check(clip: str) -> tuple[int, int, list[Problem]]:
        try:
            entry = ledger.read(clip)
        except DatasetError as error:
            return 0, 0, [Problem(clip, None, error.happened)]
        return entry.clip.frames, entry.nbytes, [*clip_problems(path, manifest, entry, quick=quick)]

    checked = frames = nbytes = 0
    with ThreadPoolExecutor(threads or (1 if quick else 2 * usable_processors())) as pool:
        progress.expect(len(clips))
        for clip_frames, clip_bytes, found in pool.map(check, clips):
            problems += found
            checked += clip_frames > 0
            frames += clip_frames
            nbytes += clip_bytes
            progress.advance()
    return Verification(
        clips=checked,
        frames=frames,
        nbytes=nbytes,
        problems=tuple(problem for problem in problems if problem.weight != "note"),
        notes=tuple(problem for problem in problems if problem.weight == "note"),
    )


def _root_problems(path: Path) -> Iterator[Problem]:
    for name, found in listing(path):
        if found.kind != ROOT.get(name, found.kind) or (name not in ROOT and not is_stray(name)):
            yield Problem(None, None, f"{printable(name)} is {found.kind}, which is no part of a dataset")


def _dataset_problems(
    path: Path, manifest: Manifest, committed: set[str], *, quick: bool
) -> Iterator[Problem]:
    if wrong := clips_group_wrong(path):
        yield Problem(None, None, wrong)
    promised = {asset.name for asset in manifest.assets}
    for asset in manifest.assets:
        if wrong := _asset_wrong(path, asset, quick=quick):
            yield Problem(None, None, f"assets/{asset.name} {wrong}")
    for name, found in listing(path / "assets"):
        if name not in promised and not is_stray(name):
            what = f"assets/{printable(name)} is {found.kind} that the manifest does not name"
            yield Problem(None, None, what)
    for name, found in listing(path / "ledger"):
        if name.removesuffix(".json") not in committed and not is_stray(name):
            yield Problem(None, None, f"ledger/{printable(name)} is {found.kind}, which is no entry")
    for name, found in listing(path / "clips"):
        if is_stray(name):
            continue
        if found.kind == FOLDER and name not in committed:
            yield Problem(printable(name), None, "the clip has a folder, but no entry in the ledger")
        elif found.kind != FOLDER and name not in committed and name != "zarr.json":
            yield Problem(None, None, f"clips/{printable(name)} is {found.kind}, which is no clip")
    for writer, _ in listing(path / PARTIAL):
        for name, _ in listing(path / PARTIAL / writer):
            what = f"{PARTIAL} holds {printable(name)}, never finished; the next run clears it"
            # A clip that was to get more features, or another writer's, is part of the dataset already.
            if name in committed:
                yield Problem(name, None, what, weight="note")
            elif not is_stray(name):
                yield Problem(printable(name), None, what)


def _asset_wrong(path: Path, asset: AssetSpec, *, quick: bool) -> str | None:
    name = f"assets/{asset.name}"
    try:
        nbytes = LocalBackend(path).size(name)
        if nbytes is None:
            return "is missing"
        if nbytes != asset.nbytes:
            return f"has {nbytes} bytes instead of {asset.nbytes}"
        if not quick and sha256_of(path / name) != asset.sha256:
            return "is not the file that the manifest names"
        if not quick:
            with safe_open(path / name, "numpy"):
                pass  # reads its header
    except (DatasetError, OSError, SafetensorError) as error:
        return f"cannot be read: {reason_of(error)}"
    return None

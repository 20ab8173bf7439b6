"""Every byte against the ledger, every array against the manifest.

A dataset is looked at without Zarr, so that nothing it says is acted upon: names, sizes and the zarr.json of
every array follow from the manifest and the lengths of clips, and are compared with what is there.
"""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from safetensors import SafetensorError, safe_open

from cache_schema.dataset.clip_writer import PARTIAL
from cache_schema.dataset.reader import read_manifest
from cache_schema.errors import DatasetError, TeachonceError
from cache_schema.format.array_metadata import check_document, check_group, promised_files
from cache_schema.format.encodings import SCALE
from cache_schema.format.ledger import Ledger
from cache_schema.integrity.shard_scan import ChunkFile, examine
from cache_schema.progress import SILENT
from cache_schema.storage.atomic_io import sha256_bytes, sha256_of
from cache_schema.storage.safe_io import JSON_BYTES, file_size, parse_json, read_file
from cache_schema.vocabulary.driving import GROUND_TRUTH

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cache_schema.format.encodings import StoredArray
    from cache_schema.format.ledger import ClipInfo, FileRecord, LedgerEntry
    from cache_schema.format.manifest import Manifest
    from cache_schema.progress import Progress

FILE, FOLDER, LINK, DEVICE = "a file", "a folder", "a symbolic link", "no plain file"
ROOT = {
    "zarr.json": FILE,
    "README.md": FILE,
    "index.json": FILE,
    "clips": FOLDER,
    "ledger": FOLDER,
    "assets": FOLDER,
}
"""What lies in a dataset's folder. Hidden names are of writers at work, and of tools that carry datasets."""

OTHER_BYTES = "holds other bytes than were written"


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
    progress: Progress = SILENT,
) -> Verification:
    """Check a dataset against its own ledger and manifest.

    Args:
        path: The dataset's folder.
        quick: Leave the values alone: compare names, sizes and metadata, but read no chunk and no asset.
        threads: Clips checked at the same time; by default two a core, so that one hashes while another waits
            for the disk.
        progress: Counts clips.

    Returns:
        What was looked at, and every problem found; none means that the dataset is as it was written.

    Raises:
        DatasetError: There is no readable manifest, so that nothing can be checked.
    """
    manifest = read_manifest(path)
    ledger = Ledger(path / "ledger")
    problems = [*_root_problems(path)]
    try:
        clips = ledger.clips()
    except DatasetError as error:
        problems.append(Problem(None, None, error.happened))
        clips = ()
    problems += _dataset_problems(path, manifest, set(clips), quick=quick)
    entries: list[LedgerEntry] = []
    for clip in clips:
        try:
            entries.append(ledger.read(clip))
        except DatasetError as error:
            problems.append(Problem(clip, None, error.happened))

    def check(entry: LedgerEntry) -> list[Problem]:
        return [*_clip_problems(path, manifest, entry, quick=quick)]

    with ThreadPoolExecutor(threads or 2 * (os.cpu_count() or 1)) as pool:
        progress.expect(len(entries))
        for found in pool.map(check, entries):
            problems += found
            progress.advance()
    return Verification(
        clips=len(entries),
        frames=sum(entry.clip.frames for entry in entries),
        nbytes=sum(entry.nbytes for entry in entries),
        problems=tuple(problems),
    )


def _root_problems(path: Path) -> Iterator[Problem]:
    for name, found in _inside(path):
        if found.kind != ROOT.get(name, found.kind) or (name not in ROOT and name[0] != "."):
            yield Problem(None, None, f"{_shown(name)} is {found.kind}, which is no part of a dataset")


def _dataset_problems(
    path: Path, manifest: Manifest, committed: set[str], *, quick: bool
) -> Iterator[Problem]:
    try:
        group = parse_json(read_file(path, "clips/zarr.json"))
        if group != {"zarr_format": 3, "node_type": "group", "attributes": {}}:
            yield Problem(None, None, "clips/zarr.json is not that of an empty group")
    except (ValueError, FileNotFoundError, DatasetError) as error:
        yield Problem(None, None, f"clips/zarr.json cannot be read: {_reason(error)}")
    promised = {asset.name for asset in manifest.assets}
    for asset in manifest.assets:
        if wrong := _asset_wrong(path, asset.name, asset.nbytes, asset.sha256, quick=quick):
            yield Problem(None, None, f"assets/{asset.name} {wrong}")
    for name, found in _inside(path / "assets"):
        if name not in promised and name[0] != ".":
            yield Problem(
                None, None, f"assets/{_shown(name)} is {found.kind} that the manifest does not name"
            )
    for name, found in _inside(path / "ledger"):
        if name.removesuffix(".json") not in committed and name[0] != ".":
            yield Problem(None, None, f"ledger/{_shown(name)} is {found.kind}, which is no entry")
    for name, found in _inside(path / "clips"):
        if found.kind == FOLDER and name not in committed:
            yield Problem(_shown(name), None, "the clip has a folder, but no entry in the ledger")
        elif found.kind != FOLDER and name not in committed and name != "zarr.json":
            yield Problem(None, None, f"clips/{_shown(name)} is {found.kind}, which is no clip")
    for writer, _ in _inside(path / PARTIAL):
        for name, _ in _inside(path / PARTIAL / writer):
            clip = None if name in committed else _shown(name)  # one that was to get more features is there
            yield Problem(
                clip, None, f"{PARTIAL} holds {_shown(name)}, never finished; the next run clears it"
            )


def _asset_wrong(path: Path, name: str, nbytes: int, sha256: str, *, quick: bool) -> str | None:
    try:
        size = file_size(path, f"assets/{name}")
        if size is None:
            return "is missing"
        if size != nbytes:
            return f"has {size} bytes instead of {nbytes}"
        if not quick and sha256_of(path / "assets" / name) != sha256:
            return "is not the file that the manifest names"
        if not quick:
            with safe_open(path / "assets" / name, "numpy"):
                pass  # reads its header
    except (DatasetError, OSError, SafetensorError) as error:
        return f"cannot be read: {_reason(error)}"
    return None


def _clip_problems(path: Path, manifest: Manifest, entry: LedgerEntry, *, quick: bool) -> Iterator[Problem]:
    clip = entry.clip
    folder = path / "clips" / clip.name
    if (path / "clips").is_symlink() or folder.is_symlink() or not folder.is_dir():
        yield Problem(clip.name, None, "the clip is in the ledger, but its folder is missing or a link")
        return
    promised = promised_files(manifest, clip.frames)
    arrays = {name.split("/")[0] for name in (*promised, *entry.files) if "/" in name}
    there: dict[str, _Found] = {}
    for name, found in _inside(folder):
        if found.kind == FOLDER and name in arrays:
            there.update((f"{name}/{inner}", within) for inner, within in _inside(folder / name))
        elif found.kind == FOLDER and name in _ADDABLE and manifest.feature(name) is None:
            # Of a run that was killed before its ledger entry: the clip itself is as it was written.
            what = f"clips/{clip.name}/{name} was never finished; `teachonce add-truth` makes it again"
            yield Problem(None, name, what)
        else:
            there[name] = found
    for name in sorted({*promised, *entry.files, *there}):
        feature = name.split("/")[0].removesuffix(SCALE) if name != "zarr.json" else None
        found, record = there.get(name), entry.files.get(name)
        if found is not None and found.kind != FILE:
            what = f"is {found.kind}"
        elif record is None:
            what = "is not in the ledger"
        elif found is None:
            what = "is missing"
        elif found.nbytes != record.nbytes:
            what = f"has {found.nbytes} bytes instead of {record.nbytes}"
        else:
            try:
                if name in promised:
                    what = _content_wrong(folder / name, record, promised[name], clip, quick=quick)
                else:  # of a feature that is being added, and is promised once every clip has it
                    what = None if quick or sha256_of(folder / name) == record.sha256 else OTHER_BYTES
            except OSError as error:
                what = f"cannot be read: {error}"
        if what is not None:
            yield Problem(clip.name, feature and _shown(feature), f"{_shown(name)} {what}")


def _content_wrong(
    file: Path, record: FileRecord, promised: ChunkFile | StoredArray | None, clip: ClipInfo, *, quick: bool
) -> str | None:
    """What is wrong with a file of the size that the ledger gives."""
    if isinstance(promised, ChunkFile):
        if record.nbytes != promised.nbytes:
            return f"has {record.nbytes} bytes, where the manifest promises {promised.nbytes}"
        if quick:
            return None
        sha256, wrong = examine(file, promised)
    elif record.nbytes > JSON_BYTES:
        return f"has {record.nbytes} bytes, more than anything of its kind"
    else:
        content = file.read_bytes()
        sha256 = sha256_bytes(content)
        if promised is None:
            wrong = check_group(content, clip)
        else:
            wrong = check_document(content, promised, clip.frames)
    return OTHER_BYTES if sha256 != record.sha256 else wrong


class _Found(NamedTuple):
    kind: str
    nbytes: int


def _inside(folder: Path) -> Iterator[tuple[str, _Found]]:
    """What lies in a folder, sorted by name; nothing if it is no folder or behind a link."""
    if folder.is_symlink() or not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        found = {entry.name: entry.stat(follow_symlinks=False) for entry in entries}
    for name, status in sorted(found.items()):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), DEVICE)
        yield name, _Found(kind, status.st_size)


_ADDABLE = frozenset(spec.name for spec in GROUND_TRUTH)

_KINDS = {stat.S_IFREG: FILE, stat.S_IFDIR: FOLDER, stat.S_IFLNK: LINK}


def _shown(name: str) -> str:
    """A name that a stranger chose, as a terminal may have it."""
    return name if name.isprintable() else ascii(name)


def _reason(error: Exception) -> str:
    return error.happened if isinstance(error, TeachonceError) else str(error)

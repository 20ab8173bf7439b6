"""Checking one clip: every file against its ledger entry, every array against the manifest."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from cache_schema.errors import DatasetError
from cache_schema.format.array_metadata import check_document, check_group
from cache_schema.format.clip_files import ChunkFile, MetadataFile, array_of, promised_files
from cache_schema.format.encodings import SCALE
from cache_schema.format.features import FEATURE_NAME
from cache_schema.format.layout import CHECKSUM_BYTES
from cache_schema.format.ledger import FILE_PATH
from cache_schema.format.ragged import SHAPE, frame_index, wrongly_shared
from cache_schema.integrity.listing import FILE, FOLDER, Listed, entries_of, listing, printable
from cache_schema.integrity.problem import Problem
from cache_schema.integrity.shard_scan import scan
from cache_schema.storage.atomic_io import sha256_bytes, sha256_of
from cache_schema.storage.safe_io import JSON_BYTES, read_plain
from cache_schema.storage.stray_files import is_stray

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cache_schema.format.features import FeatureSpec
    from cache_schema.format.ledger import ClipInfo, FileRecord, LedgerEntry
    from cache_schema.format.manifest import Manifest

ARRAY_NAME = re.compile(rf"{FEATURE_NAME[:-1]}({re.escape(SCALE)}|{re.escape(SHAPE)})?$")
OTHER_BYTES = "holds other bytes than were written"


def clip_problems(path: Path, manifest: Manifest, entry: LedgerEntry, *, quick: bool) -> Iterator[Problem]:
    """Yield every problem of one clip of the dataset at ``path``, and notes of what lies in it besides.

    Args:
        path: The dataset's folder.
        manifest: Its manifest.
        entry: The clip's ledger entry.
        quick: Read no values.
    """
    clip = entry.clip
    folder = path / "clips" / clip.name
    if (path / "clips").is_symlink() or folder.is_symlink() or not folder.is_dir():
        yield Problem(clip.name, None, "the clip is in the ledger, but its folder is missing or a link")
        return
    ragged = {spec.name for spec in manifest.features if spec.ragged}
    fixed = {spec.name for spec in manifest.features} - ragged
    for name in sorted(entry.values.keys() & fixed):
        yield Problem(clip.name, name, "the ledger counts the values of a feature that is not ragged")
    try:
        promised = promised_files(manifest.features, clip.frames, entry.values)
    except DatasetError as error:
        yield Problem(clip.name, None, error.happened)
        return
    there: dict[str, Listed] = {}
    arrays = {array_of(name) for name in (*promised, *entry.files)}
    for name, found in listing(folder):
        if found.kind == FOLDER and name in arrays:
            there.update((f"{name}/{inner}", within) for inner, within in entries_of(f"{folder}/{name}"))
        elif is_stray(name):
            there[name] = found
        elif found.kind == FOLDER and ARRAY_NAME.fullmatch(name):
            # Of a run that was killed before its ledger entry: the clip itself is as it was written.
            what = f"clips/{clip.name}/{name} was never finished; add the feature again, or delete the folder"
            yield Problem(None, _feature(name), what)
        else:
            there[name] = found
    wrong = set()
    for name in sorted({*promised, *entry.files, *there}):
        known = name in promised or name in entry.files
        if not known and is_stray(name.rpartition("/")[2]):
            yield Problem(clip.name, None, f"{printable(name)} is no part of it", weight="note")
            continue
        what = _file_wrong(folder, name, there, entry, promised, quick=quick)
        if what is None:
            continue
        feature = _feature(name) if name != "zarr.json" else None
        foreign = not known and not re.fullmatch(FILE_PATH, name)
        if not foreign:
            wrong.add(feature)
        weight = "foreign" if foreign else "damage"
        yield Problem(clip.name, feature and printable(feature), f"{printable(name)} {what}", weight)
    for spec in manifest.features:
        if spec.ragged and spec.name not in wrong and not quick:
            what = _shapes_wrong(folder, spec, entry.values[spec.name])
            index = None if spec.stored_at is None else manifest.feature(spec.stored_at)
            if what is None and index is not None and index.name not in wrong:
                what = _sharing_wrong(folder, spec, index)
            if what is not None:
                yield Problem(clip.name, spec.name, what)


def _file_wrong(
    folder: Path,
    name: str,
    there: dict[str, Listed],
    entry: LedgerEntry,
    promised: dict[str, ChunkFile | MetadataFile | None],
    *,
    quick: bool,
) -> str | None:
    """Return what is wrong with a file that is promised, listed in the ledger, or in the folder."""
    found, record = there.get(name), entry.files.get(name)
    if found is not None and found.kind != FILE:
        return f"is {found.kind}"
    if record is None:
        return "is not in the ledger"
    if found is None:
        return "is missing"
    if found.nbytes != record.nbytes:
        return f"has {found.nbytes} bytes instead of {record.nbytes}"
    try:
        if name in promised:
            return _content_wrong(folder, name, record, promised[name], entry.clip, quick=quick)
        # Of a feature that is being added, and is promised once every clip has it.
        return None if quick or sha256_of(folder / name) == record.sha256 else OTHER_BYTES
    except OSError as error:
        return f"cannot be read: {error}"


def _content_wrong(
    folder: Path,
    name: str,
    record: FileRecord,
    promised: ChunkFile | MetadataFile | None,
    clip: ClipInfo,
    *,
    quick: bool,
) -> str | None:
    """Return what is wrong with a promised file of the size that the ledger lists."""
    if isinstance(promised, ChunkFile):
        if record.nbytes != promised.nbytes:
            return f"has {record.nbytes} bytes, where the manifest promises {promised.nbytes}"
        if quick:
            return None
        sha256, wrong = scan(folder / name, promised)
    elif record.nbytes > JSON_BYTES:
        return f"has {record.nbytes} bytes, more than any zarr.json"
    else:
        content = read_plain(f"{folder}/{name}", JSON_BYTES)  # no Path: there are millions
        sha256 = sha256_bytes(content)
        if promised is None:
            wrong = check_group(content, clip)
        else:
            wrong = check_document(content, promised.stored, promised.length)
    return OTHER_BYTES if sha256 != record.sha256 else wrong


def _feature(path: str) -> str:
    """Return the feature that a path in a clip's folder belongs to; of an unknown file, its name."""
    return path.partition("/")[0].removesuffix(SCALE).removesuffix(SHAPE)


def _shapes_wrong(folder: Path, spec: FeatureSpec, values: int) -> str | None:
    """Return what is wrong with the shapes of a ragged feature, whose files are as they were written."""
    name = f"{spec.name}{SHAPE}/c.0.0"
    try:
        total = frame_index(spec, _shapes(folder, spec)).offsets[-1]
    except ValueError as error:
        return f"{name} cannot be right: {error}"
    return None if total == values else f"{name} has shapes of {total} values, where there are {values}"


def _sharing_wrong(folder: Path, spec: FeatureSpec, index: FeatureSpec) -> str | None:
    """Return what is wrong with where frames that share values find them."""
    holders = _single_chunk(folder / index.name / "c.0", index.dtype)
    what = wrongly_shared(spec, holders, _shapes(folder, spec))
    return None if what is None else f"{index.name}/c.0 cannot be right: {what}"


def _shapes(folder: Path, spec: FeatureSpec) -> np.ndarray:
    """Return what a ragged feature has as the shapes of its frames, (frames, axes)."""
    return _single_chunk(folder / f"{spec.name}{SHAPE}" / "c.0.0", "int32").reshape(-1, len(spec.shape))


def _single_chunk(file: Path, dtype: str) -> np.ndarray:
    return np.frombuffer(file.read_bytes()[:-CHECKSUM_BYTES], np.dtype(dtype).newbyteorder("<"))

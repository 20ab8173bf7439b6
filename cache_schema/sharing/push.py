"""Sending a dataset to where others can read it: whole clips only, at any instant.

The files of a clip go first, its ledger entry after them, and the root of a new dataset last of all. So a
push that is cut short leaves a smaller dataset or none, and running it again sends what is missing.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from huggingface_hub import metadata_load
from yaml import YAMLError

from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import DatasetError, IdentityError, RequestError, StorageError
from cache_schema.format.identity import difference_rows, differences
from cache_schema.format.ledger import parse_entry
from cache_schema.format.manifest import parse_root
from cache_schema.integrity.verify import verify
from cache_schema.progress import SILENT
from cache_schema.storage.backend import CARD, INDEX
from cache_schema.storage.object_store import PART_BYTES
from cache_schema.storage.open import open_backend
from cache_schema.storage.safe_io import JSON_BYTES
from cache_schema.terminal import size

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from cache_schema.format.ledger import LedgerEntry
    from cache_schema.progress import Progress
    from cache_schema.storage.backend import Content, ListedFile, StorageBackend

OURS = ("assets", "clips", "ledger", CARD, INDEX, ".gitattributes")
"""What storage may hold before its dataset has a root: of a push cut short, or of a new repository."""
READERS = 8
"""Ledger entries that are read in parallel."""


@dataclass(frozen=True)
class Pushed:
    """Result of a push."""

    sent: tuple[str, ...]
    """Clips of which files were sent."""
    present: tuple[str, ...]
    """Clips that were there, whole, before."""
    nbytes: int
    """Bytes of the files that were sent."""
    url: str
    """Where the dataset was sent."""

    def __rich__(self) -> str:
        """Show it in a line."""
        return (
            f"{len(self.sent)} clips, {size(self.nbytes)} sent to {self.url}; {len(self.present)} were there"
        )


def push(path: Path, url: str, *, progress: Progress = SILENT) -> Pushed:
    """Send a dataset to a folder or URL. What is there already is not sent again, and other clips stay.

    Args:
        path: The dataset's folder, with a card that states its licence.
        url: Where to send it, as ``open_backend`` takes it.
        progress: Counts bytes.

    Raises:
        DatasetError: The dataset is damaged, or has no card with a licence.
        IdentityError: Another dataset is there.
        StorageError: The storage cannot be reached, refuses, or is too small for so many files.
    """
    check_licence(path)
    dataset = LatentDataset.open(path)
    if problems := verify(path, quick=True).problems:
        listed = "\n".join(f"    {problem.clip or 'dataset'}: {problem.what}" for problem in problems[:10])
        raise DatasetError(
            f"{path} is damaged:\n{listed}",
            expected="every file that the ledger lists, and no other",
            repair="run `teachonce repair`, and extract again what it took out",
        )
    target = open_backend(url)
    if target.local and target.local.resolve() == path.resolve():
        raise RequestError(
            f"{path} is where it would be sent to",
            expected="another folder or URL",
            repair="name a bucket, a repository of the hub or another folder",
        )
    entries = {clip: dataset.entry(clip) for clip in dataset.clips}
    there = target.files()
    committed = _check_target(target, there, dataset, entries)
    _check_room(target, there, entries)
    missing = {clip: _missing(path, entry, there, clip in committed) for clip, entry in entries.items()}
    missing = {clip: files for clip, files in missing.items() if files or clip not in committed}
    first = {
        name: path / name
        for name in ("clips/zarr.json", *(f"assets/{asset.name}" for asset in dataset.manifest.assets))
        if name not in there or there[name].nbytes != (path / name).stat().st_size
    }
    nbytes = _nbytes(first.values()) + sum(_nbytes(files.values()) for files in missing.values())
    progress.expect(nbytes)
    if first:
        target.upload([first])
        progress.advance(_nbytes(first.values()))

    def send(clips: Sequence[str]) -> None:
        files = {name: file for clip in clips for name, file in missing[clip].items()}
        ledger = {name: path / name for clip in clips if (name := f"ledger/{clip}.json") not in there}
        target.upload([files, ledger])
        progress.advance(_nbytes(files.values()), ", ".join(clips))

    waiting = tuple(missing)
    step = target.clips_per_upload
    with ThreadPoolExecutor(target.parallel_uploads) as pool:
        try:
            list(pool.map(send, [waiting[begin : begin + step] for begin in range(0, len(waiting), step)]))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    index = {"clips": [name.removesuffix(".json") for name in target.names("ledger")]}
    last: list[Mapping[str, Content]] = [{CARD: path / CARD, INDEX: json.dumps(index, indent=1).encode()}]
    if "zarr.json" not in there:
        last.append({"zarr.json": path / "zarr.json"})
    target.upload(last)
    return Pushed(
        sent=tuple(missing),
        present=tuple(sorted(entries.keys() - missing.keys())),
        nbytes=nbytes,
        url=url,
    )


def check_licence(path: Path) -> None:
    """Check that a dataset has a card whose front matter states a licence.

    Raises:
        DatasetError: It has not.
    """
    try:
        stated = (metadata_load(path / CARD) or {}).get("license")
    except (FileNotFoundError, ValueError, YAMLError):
        stated = None
    if not stated:
        raise DatasetError(
            f"{path / CARD} states no licence",
            expected="a card with `license:` in its front matter, since terms bind what is derived from data",
            repair=f"run `teachonce card {path} --licence ...` first",
        )


def _check_target(
    target: StorageBackend,
    there: Mapping[str, ListedFile],
    dataset: LatentDataset,
    entries: Mapping[str, LedgerEntry],
) -> set[str]:
    """Check that the target holds nothing, or clips of the same dataset; return the names of its clips."""
    committed = {name[len("ledger/") : -len(".json")] for name in there if name.startswith("ledger/")}
    if "zarr.json" in there:
        found = parse_root(target.read("zarr.json", JSON_BYTES), str(target))
        if different := differences(found, dataset.manifest):
            raise IdentityError(
                f"{target} holds another dataset:\n{difference_rows(different, '{} there, {} here')}",
                expected="the same teacher, checkpoint, preprocessing, features and data in every field",
                repair="push to a folder or URL of its own",
            )
    else:
        # Without a root there is no identity to compare: whatever is there must be of this very dataset.
        foreign = [name for name in there if name.split("/")[0] not in OURS]
        foreign += [f"ledger/{clip}.json" for clip in sorted(committed - entries.keys())]
        if foreign:
            raise IdentityError(
                f"{target} is not empty, and holds no dataset: {', '.join(foreign[:5])}",
                expected="nothing, this dataset or a part of it",
                repair="push to a folder or URL of its own",
            )

    def check(clip: str) -> None:
        name = f"ledger/{clip}.json"
        entry = parse_entry(target.read(name, JSON_BYTES), clip, f"{target}/{name}")
        if entry.digest != entries[clip].digest:
            raise IdentityError(
                f"{target} holds another clip {clip!r}",
                expected=f"the digest {entries[clip].digest}, not {entry.digest}",
                repair="push to a folder or URL of its own, or leave the clip out with `teachonce subset`",
            )

    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(check, sorted(committed & entries.keys())))
    return committed


def _check_room(target: StorageBackend, there: Iterable[str], entries: Mapping[str, LedgerEntry]) -> None:
    if target.limits is None:
        return
    files = {f"clips/{clip}/{name}" for clip, entry in entries.items() for name in entry.files}
    names = {*there, *files, *(f"ledger/{clip}.json" for clip in entries)}
    folders = {name.rpartition("/")[0] for name in names}
    folders |= {folder.rpartition("/")[0] for folder in folders} - {""}
    widest = max(Counter(name.rpartition("/")[0] for name in names | folders).values(), default=0)
    parts = math.ceil(max(len(names) / target.limits.files, widest / target.limits.entries_per_folder))
    if parts > 1:
        raise StorageError(
            f"{target} would hold {len(names):,} files, and a folder of {widest:,} entries",
            expected=f"at most {target.limits.files:,} files, "
            f"{target.limits.entries_per_folder:,} in a folder",
            repair=f"split it: `teachonce subset IN OUT --part 1/{parts}` and so on to {parts}/{parts}, "
            "push each part as its own dataset; `teachonce merge` joins them again",
        )


def _missing(
    path: Path, entry: LedgerEntry, there: Mapping[str, ListedFile], committed: bool
) -> dict[str, Content]:
    """Return the files of a clip that the target lacks, or has otherwise."""
    missing: dict[str, Content] = {}
    for name, record in entry.files.items():
        remote = f"clips/{entry.clip.name}/{name}"
        listed = there.get(remote)
        same = listed is not None and listed.nbytes == record.nbytes
        # What is committed was sent whole; the rest of a clip may be of another dataset.
        if not same or not (committed or listed.etag == _etag(path / remote)):
            missing[remote] = path / remote
    return missing


def _etag(path: Path) -> str:
    """Return the digest that S3 has of a file which was uploaded in parts of ``PART_BYTES``."""
    with path.open("rb") as file:
        parts = [
            hashlib.md5(part, usedforsecurity=False) for part in iter(lambda: file.read(PART_BYTES), b"")
        ]
    if len(parts) == 1:
        return parts[0].hexdigest()
    together = hashlib.md5(b"".join(part.digest() for part in parts), usedforsecurity=False)
    return f"{together.hexdigest()}-{len(parts)}"


def _nbytes(files: Iterable[Content]) -> int:
    return sum(len(file) if isinstance(file, bytes) else file.stat().st_size for file in files)

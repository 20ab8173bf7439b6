"""Sending a dataset to where others can read it: whole clips only, at any instant.

The files of a clip go first, its ledger entry after them, and the root of a new dataset last of all. So a
push that is cut short leaves a smaller dataset or none, and running it again sends what is missing.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import (
    DatasetError,
    IdentityError,
    RequestError,
    StorageError,
    UnknownFormatError,
)
from cache_schema.format.array_metadata import CLIPS_GROUP
from cache_schema.format.identity import difference_rows, differences
from cache_schema.format.ledger import parse_entry
from cache_schema.format.manifest import parse_root
from cache_schema.integrity.verify import verify
from cache_schema.progress import SILENT
from cache_schema.storage.backend import CARD, INDEX, LocalFile
from cache_schema.storage.local_folder import LocalBackend
from cache_schema.storage.open import open_backend
from cache_schema.storage.safe_io import JSON_BYTES, parse_json
from cache_schema.terminal import size

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from cache_schema.format.ledger import LedgerEntry
    from cache_schema.format.manifest import Manifest
    from cache_schema.progress import Progress
    from cache_schema.storage.backend import Content, ListedFile, StorageBackend

GROUP = "clips/zarr.json"
"""The group around the clips."""
READERS = 8
"""Ledger entries that are read, and clips that are compared, in parallel."""


@dataclass(frozen=True)
class Pushed:
    """Result of a push."""

    sent: tuple[str, ...]
    """Clips of which files, or the ledger entry, were sent."""
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


def push(path: Path, url: str, *, verify_there: bool = False, progress: Progress = SILENT) -> Pushed:
    """Send a dataset to a folder or URL. What is there already is not sent again, and other clips stay.

    Every byte is compared with the ledger while it is sent, and a clip's entry follows its files; so what an
    entry there lists was right when it came. It is compared with what is here by digest where that is quick,
    in folders and on the hub, and where the clip was made again; in buckets by size.

    Args:
        path: The dataset's folder, with a card that states its licence.
        url: Where to send it, as ``open_backend`` takes it.
        verify_there: Compare every file that is there by digest, in buckets too, and send again what differs.
        progress: Counts bytes.

    Raises:
        DatasetError: The dataset is damaged, or has no card with a licence.
        IdentityError: Another dataset is there.
        StorageError: The storage cannot be reached, refuses, or is too small for so many files.
    """
    card = check_licence(path)
    local = LocalBackend(path)
    dataset = LatentDataset.open(local)
    root = local.read("zarr.json", JSON_BYTES)
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
    if isinstance(target, LocalBackend):
        target.clear_remains()
    ledger = {clip: local.read(f"ledger/{clip}.json", JSON_BYTES) for clip in dataset.clips}
    entries = {clip: parse_entry(ledger[clip], clip, f"{path}/ledger/{clip}.json") for clip in ledger}
    there = target.files()
    has_root, entries_there = _check_target(target, there, dataset, entries)
    _check_room(target, there, entries)

    def missing(clip: str) -> dict[str, Content]:
        as_here = entries_there.get(clip) == ledger[clip]
        by_digest = verify_there or target.compares_quickly or not as_here
        return {
            name: file
            for name, file in _files(path, entries[clip]).items()
            if not _is_there(target, name, file, there, by_digest=by_digest)
        }

    with ThreadPoolExecutor(READERS) as pool:
        due = dict(zip(entries, pool.map(missing, entries), strict=True))
    due = {clip: files for clip, files in due.items() if files or entries_there.get(clip) != ledger[clip]}
    first: dict[str, Content] = {
        name: file
        for name, file in _asset_files(path, dataset.manifest).items()
        if not _is_there(target, name, file, there, by_digest=True)
    }
    if GROUP not in there or not _is_group(target.read(GROUP, JSON_BYTES)):
        first[GROUP] = local.read(GROUP, JSON_BYTES)
    nbytes = _nbytes(first.values()) + sum(_nbytes(files.values()) for files in due.values())
    progress.expect(nbytes)
    if first:
        target.upload([first])
        progress.advance(_nbytes(first.values()))
    _check_case(target, {*entries, *_clips_of(there)})

    def send(clips: Sequence[str]) -> None:
        files = {name: file for clip in clips for name, file in due[clip].items()}
        changed = [clip for clip in clips if entries_there.get(clip) != ledger[clip]]
        target.upload([files, {f"ledger/{clip}.json": ledger[clip] for clip in changed}])
        progress.advance(_nbytes(files.values()), ", ".join(clips))

    waiting = tuple(due)
    step = target.clips_per_upload
    with ThreadPoolExecutor(target.parallel_uploads) as pool:
        try:
            list(pool.map(send, [waiting[begin : begin + step] for begin in range(0, len(waiting), step)]))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    index = {"clips": [name.removesuffix(".json") for name in target.names("ledger")]}
    last: list[Mapping[str, Content]] = [{CARD: card, INDEX: json.dumps(index, indent=1).encode()}]
    if not has_root:
        last.append({"zarr.json": root})
    target.upload(last)
    return Pushed(
        sent=tuple(due),
        present=tuple(sorted(entries.keys() - due.keys())),
        nbytes=nbytes,
        url=url,
    )


def check_licence(path: Path) -> bytes:
    """Return the card of a dataset, whose front matter must state a licence.

    Raises:
        DatasetError: It does not.
    """
    card = b""
    with contextlib.suppress(FileNotFoundError):
        card = LocalBackend(path).read(CARD, JSON_BYTES)
    try:
        front = REGEX_YAML_BLOCK.search(card.decode("utf-8-sig"))
        fields = yaml.safe_load(front[2]) if front else None
        stated = isinstance(fields, dict) and fields.get("license")
    except (ValueError, RecursionError, yaml.YAMLError):
        stated = None
    if not stated:
        raise DatasetError(
            f"{path / CARD} states no licence",
            expected="a card with `license:` in its front matter, since terms bind what is derived from data",
            repair=f"run `teachonce card {path} --licence ...` first",
        )
    return card


def _check_target(
    target: StorageBackend,
    there: Mapping[str, ListedFile],
    dataset: LatentDataset,
    entries: Mapping[str, LedgerEntry],
) -> tuple[bool, dict[str, bytes | None]]:
    """Check that the target holds nothing, or clips of the same dataset.

    Returns:
        Whether it has a root that can be read; and the entries of its clips as they are there, None where
        that is no entry.
    """
    committed = _clips_of(there)
    has_root = "zarr.json" in there
    if has_root:
        try:
            found = parse_root(target.read("zarr.json", JSON_BYTES), str(target))
        except UnknownFormatError:
            raise
        except DatasetError:
            has_root = False
        else:
            if different := differences(found, dataset.manifest):
                raise IdentityError(
                    f"{target} holds another dataset:\n{difference_rows(different, '{} there, {} here')}",
                    expected="the same teacher, checkpoint, preprocessing, features and data in every field",
                    repair="push to a folder or URL of its own",
                )

    def check(clip: str) -> bytes | None:
        name = f"ledger/{clip}.json"
        content = target.read(name, JSON_BYTES)
        try:
            entry = parse_entry(content, clip, f"{target}/{name}")
        except DatasetError:
            return None
        if entry.digest != entries[clip].digest:
            raise IdentityError(
                f"{target} holds another clip {clip!r}",
                expected=f"the digest {entries[clip].digest}, not {entry.digest}",
                repair="push to a folder or URL of its own, or leave the clip out with `teachonce subset`",
            )
        return content

    clips = sorted(committed & entries.keys())
    with ThreadPoolExecutor(READERS) as pool:
        entries_there = dict(zip(clips, pool.map(check, clips), strict=True))
    if not has_root:
        # Without a root there is no identity to compare: whatever is there must be of this very dataset.
        ours = {"zarr.json", CARD, INDEX, ".gitattributes", GROUP}
        ours |= {f"ledger/{clip}.json" for clip in entries}
        ours |= {name for entry in entries.values() for name in _files(dataset.path, entry)}
        ours |= _asset_files(dataset.path, dataset.manifest).keys()
        if foreign := sorted(there.keys() - ours):
            raise IdentityError(
                f"{target} is not empty, and holds no dataset: {', '.join(foreign[:5])}",
                expected="nothing, this dataset or a part of it",
                repair="push to a folder or URL of its own, or delete there what another push has left",
            )
    return has_root, entries_there


def _clips_of(there: Iterable[str]) -> set[str]:
    return {name[len("ledger/") : -len(".json")] for name in there if name.startswith("ledger/")}


def _check_case(target: StorageBackend, clips: Iterable[str]) -> None:
    """Check that the target, which has its group, keeps clips apart whose names differ by case alone."""
    spellings: dict[str, list[str]] = {}
    for clip in sorted(clips):
        spellings.setdefault(clip.casefold(), []).append(clip)
    alike = next((names for names in spellings.values() if len(names) > 1), None)
    if alike and target.size(GROUP.upper()) is not None:
        raise StorageError(
            f"{target} takes {' and '.join(alike)} for one name: one clip would overwrite the other",
            expected="a file system that tells upper case from lower, for clips that differ by it alone",
            repair="push to another place, or leave all but one of them out with `teachonce subset`",
        )


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


def _files(path: Path, entry: LedgerEntry) -> dict[str, LocalFile]:
    """Return the files of a clip, by their names in the dataset."""
    names = {f"clips/{entry.clip.name}/{name}": record for name, record in entry.files.items()}
    return {name: LocalFile(path / name, record.nbytes, record.sha256) for name, record in names.items()}


def _asset_files(path: Path, manifest: Manifest) -> dict[str, LocalFile]:
    return {
        name: LocalFile(path / name, asset.nbytes, asset.sha256)
        for asset in manifest.assets
        for name in [f"assets/{asset.name}"]
    }


def _is_there(
    target: StorageBackend,
    name: str,
    file: LocalFile,
    there: Mapping[str, ListedFile],
    *,
    by_digest: bool,
) -> bool:
    listed = there.get(name)
    if listed is None or listed.nbytes != file.nbytes:
        return False
    return not by_digest or target.holds(name, listed, file)


def _is_group(content: bytes) -> bool:
    with contextlib.suppress(ValueError):
        return parse_json(content) == CLIPS_GROUP
    return False


def _nbytes(files: Iterable[Content]) -> int:
    return sum(len(file) if isinstance(file, bytes) else file.nbytes for file in files)

"""The ledger: one JSON file a clip, written last. A clip without an entry is not part of the dataset."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_serializer, model_validator
from pydantic_core import to_json

from cache_schema.errors import DatasetError, StorageError
from cache_schema.format.features import FEATURE_NAME, Record
from cache_schema.format.limits import FRAMES, TAGS, VALUES
from cache_schema.storage.atomic_io import sha256_bytes, sha256_of, write_durably
from cache_schema.storage.open import open_backend
from cache_schema.storage.safe_io import CLIP_NAME, JSON_BYTES, canonical_json, parse_json
from cache_schema.storage.stray_files import is_stray

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from pydantic import SerializerFunctionWrapHandler

    from cache_schema.storage.backend import StorageBackend

Split = Literal["train", "val"]
FORMAT_1_TAGS = ("scenario", "town", "route", "weather")
"""The tags that every clip has in format 1, as fields of their own, empty where unknown."""
TagName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
FeatureName = Annotated[str, Field(pattern=FEATURE_NAME)]
FILE_PATH = r"^([a-z][a-z0-9_]{0,63}(\.[a-z]{1,16})?/(c(\.[0-9]{1,6}){1,9}|zarr\.json)|zarr\.json)$"
"""A file of a clip: of an array or of the group. No such path leaves its folder; readers look at no other."""
FilePath = Annotated[str, Field(pattern=FILE_PATH)]


class ClipInfo(Record):
    """A clip and where it comes from; the attributes of its group."""

    name: str = Field(pattern=CLIP_NAME)
    """Name of the raw clip; also its folder, so it can never leave the dataset."""
    frames: int = Field(ge=1, le=FRAMES)
    """Frames, all of them, in order from the first; of other data, samples."""
    split: Split
    """Side of the train/validation split."""
    tags: dict[TagName, str] = Field(default_factory=dict, max_length=TAGS)
    """Further facts about the clip, such as its town. A tag without text is no tag."""

    @model_validator(mode="before")
    @classmethod
    def _from_format_1(cls, fields: Any) -> Any:
        """Accept the spelling of format 1, in which four tags are fields."""
        if not isinstance(fields, dict) or "tags" in fields:
            return fields
        tags = {name: fields[name] for name in FORMAT_1_TAGS if name in fields}
        return {**{key: value for key, value in fields.items() if key not in tags}, "tags": tags}

    @model_validator(mode="after")
    def _without_empty_tags(self) -> Self:
        tags = dict(sorted((name, text) for name, text in self.tags.items() if text))
        object.__setattr__(self, "tags", tags)
        return self

    @model_serializer(mode="wrap")
    def _as_written(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write the four tags of format 1 as fields where they suffice: equal clips have equal digests."""
        fields = serialize(self)
        if fits_format_1(self.tags) and "tags" in fields:
            tags = fields.pop("tags")
            fields |= {name: tags.get(name, "") for name in FORMAT_1_TAGS}
        return fields


def fits_format_1(tags: Iterable[str]) -> bool:
    """Whether a clip may have tags of these names in a dataset of format 1."""
    return set(tags) <= {*FORMAT_1_TAGS}


class FileRecord(Record):
    """Size and digest of one file of a clip."""

    nbytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class LedgerEntry(Record):
    """One committed clip."""

    clip: ClipInfo
    files: dict[FilePath, FileRecord]
    """Every file below the clip's folder, by its path relative to that folder."""
    digest: str
    """sha256 over the clip's description, its files and its numbers of values: equal digests, equal clips."""
    wall_s: float = Field(ge=0)
    """The clip's share of the wall time of the run that made it; over all clips of a run, its length."""
    writer: str
    """Machine that wrote it; behind a comma and a space the model of the GPU that computed it, if one did."""
    values: dict[FeatureName, Annotated[int, Field(ge=0, le=VALUES)]] = Field(default_factory=dict)
    """Stored values of every ragged feature in this clip, from which the sizes of its files follow."""

    @model_validator(mode="after")
    def _values_have_files(self) -> Self:
        if unknown := sorted(name for name in self.values if f"{name}/zarr.json" not in self.files):
            raise ValueError(f"values of features that the clip has no files of: {', '.join(unknown)}")
        return self

    @model_serializer(mode="wrap")
    def _without_empty_values(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = serialize(self)
        if not self.values:
            fields.pop("values", None)  # as in format 1
        return fields

    @classmethod
    def of(
        cls,
        clip: ClipInfo,
        files: Mapping[str, FileRecord],
        values: Mapping[str, int],
        *,
        wall_s: float,
        writer: str,
    ) -> Self:
        """Return the entry of a clip with these files, and with these numbers of values."""
        files, values = dict(files), dict(values)
        digest = digest_of(clip, files, values)
        return cls(clip=clip, files=files, digest=digest, wall_s=wall_s, writer=writer, values=values)

    @property
    def gpu(self) -> str | None:
        """Model of the GPU that computed the clip; None where none did, or where that was not recorded."""
        return self.writer.partition(", ")[2] or None

    def holding(self, files: Mapping[str, FileRecord], values: Mapping[str, int]) -> Self:
        """Return the entry of the same clip with other files and numbers of values."""
        return self.of(self.clip, files, values, wall_s=self.wall_s, writer=self.writer)

    @property
    def nbytes(self) -> int:
        """Stored bytes of the clip."""
        return sum(file.nbytes for file in self.files.values())


def digest_of(
    clip: ClipInfo, files: Mapping[str, FileRecord], values: Mapping[str, int] | None = None
) -> str:
    """Return the digest of a clip's content, whichever machine made it and however long that took."""
    content: dict[str, Any] = {
        "clip": clip.model_dump(mode="json"),
        "files": {path: record.model_dump(mode="json") for path, record in files.items()},
    }
    if values:
        content["values"] = dict(values)
    return sha256_bytes(json.dumps(content, sort_keys=True).encode())


def record_files(folder: Path) -> dict[str, FileRecord]:
    """Return size and digest of every file of a clip, by its path below ``folder``."""
    return {
        path.relative_to(folder).as_posix(): FileRecord(nbytes=path.stat().st_size, sha256=sha256_of(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not is_stray(path.name)
    }


def entry_document(entry: LedgerEntry) -> bytes:
    """Return the file of an entry: its fields, and a seal over all of them, as the digest leaves out two."""
    fields = entry.model_dump(mode="json")
    # As UTF-8: of an escape, a flipped bit may make another spelling of the same character.
    return json.dumps({**fields, "seal": seal_of(fields)}, indent=1, ensure_ascii=False).encode()


def parse_entry(content: bytes, clip: str, where: str, *, digest: bool = True) -> LedgerEntry:
    """Return the entry of ``clip``.

    Args:
        content: Bytes of its file.
        clip: The clip whose file this is.
        where: The file, for messages.
        digest: Compute its digest again. A seal covers the digest, so this finds writers that lied.

    Raises:
        DatasetError: It does not parse, or it is not what was written.
    """
    repair = "run `teachonce repair`, then extract or pull the clip again"
    try:
        fields, sealed = _open_seal(content)
        entry = LedgerEntry.model_validate(fields, strict=True)
    except ValueError as error:
        raise DatasetError(
            f"the ledger entry {where} cannot be read: {str(error)[:1000]}",
            expected="the JSON that the commit of the clip wrote",
            repair=repair,
        ) from error
    checked = sealed and not digest  # early datasets have no seal
    whole = sealed is not False and (checked or _has_digest(entry, fields))
    if whole and clip != entry.clip.name and clip.casefold() == entry.clip.name.casefold():
        raise DatasetError(
            f"{where} is the entry of clip {entry.clip.name!r}: the file system takes both names for one",
            expected="a file system that tells upper case from lower, for clips that differ by it alone",
            repair="use another file system, or choose clips so that only one of the two is among them",
        )
    if not whole or entry.clip.name != clip:
        raise DatasetError(
            f"the ledger entry {where} contradicts itself",
            expected="a digest over the clip and the files that it lists, under the clip's own name",
            repair=repair,
        )
    return entry


def parse_clip(content: bytes, clip: str) -> ClipInfo | None:
    """Return what a sealed entry tells of its clip, without its files; None if the whole must be parsed."""
    try:
        fields, sealed = _open_seal(content)
        info = ClipInfo.model_validate(fields["clip"], strict=True) if sealed else None
    except (ValueError, TypeError, KeyError):
        return None
    return info if info is not None and info.name == clip else None


def _open_seal(content: bytes) -> tuple[Any, bool | None]:
    """Return the fields of an entry, and whether its seal fits them; None of an entry that has none."""
    if (quickly := _as_most_are(content)) is not None:
        return quickly, True
    fields = parse_json(content)
    seal = fields.pop("seal", None) if isinstance(fields, dict) else None
    return fields, None if seal is None else seal == seal_of(fields)


def _as_most_are(content: bytes) -> dict[str, Any] | None:
    """Return the fields of an entry whose seal fits, in a third of the time; None of one to look at closely.

    Where the fields have no escapes and only their outer keys need sorting, this is their canonical JSON. It
    has each key once, so an entry without escapes that has more colons repeats one.
    """
    if b"\\" in content:
        return None
    fields = parse_json(content, structure=False)
    if not isinstance(fields, dict):
        return None
    seal = fields.pop("seal", None)
    ordered = {
        key: dict(sorted(value.items())) if isinstance(value, dict) else value
        for key, value in sorted(fields.items())
    }
    try:
        canonical = to_json(ordered)
    except ValueError:  # too deep
        return None
    sealed = seal == sha256_bytes(canonical) and canonical.count(b":") + 1 == content.count(b":")
    return fields if sealed else None


def _has_digest(entry: LedgerEntry, fields: dict[str, Any]) -> bool:
    """Whether the digest of an entry is that of its content, as written or as it would be written now."""
    written = {name: fields[name] for name in ("clip", "files", "values") if name in fields}
    as_written = sha256_bytes(json.dumps(written, sort_keys=True).encode())
    return entry.digest == as_written or entry.digest == digest_of(entry.clip, entry.files, entry.values)


def seal_of(fields: dict[str, object]) -> str:
    """Return the seal over an entry's fields as JSON holds them."""
    return sha256_bytes(canonical_json(fields))


class Ledger:
    """The ledger of a latent dataset: the only list of its committed clips.

    Args:
        dataset: The dataset's folder, URL or storage backend.
    """

    def __init__(self, dataset: str | Path | StorageBackend) -> None:
        self._backend = open_backend(dataset)

    def clips(self) -> tuple[str, ...]:
        """Return the names of the committed clips, sorted.

        Raises:
            DatasetError: The ledger is no plain folder.
            StorageError: The storage cannot be reached, or cannot be listed.
        """
        names = self._backend.names("ledger")
        clips = (name.removesuffix(".json") for name in names if name.endswith(".json"))
        return tuple(sorted(clip for clip in clips if re.fullmatch(CLIP_NAME, clip)))

    def __contains__(self, clip: str) -> bool:
        return bool(re.fullmatch(CLIP_NAME, clip)) and self._backend.size(_entry_of(clip)) is not None

    def read(self, clip: str, *, digest: bool = True) -> LedgerEntry:
        """Return a clip's entry.

        Args:
            clip: Its name.
            digest: Compute its digest again, as of ``parse_entry``; to add entries up, it need not be.

        Raises:
            DatasetError: There is none, it does not parse, or its digest does not fit what it lists.
        """
        content = self._content(clip)
        return parse_entry(content, clip, f"{self._backend}/{_entry_of(clip)}", digest=digest)

    def clip(self, clip: str) -> ClipInfo:
        """Return what is known of a clip, in less time than its whole entry takes.

        Raises:
            DatasetError: As of ``read``.
        """
        content = self._content(clip)
        info = parse_clip(content, clip)
        return self.read(clip).clip if info is None else info

    def commit(self, entry: LedgerEntry) -> None:
        """Make a clip part of the dataset, which is a folder of this machine.

        Raises:
            DatasetError: No reader would accept the entry.
        """
        name, content = _entry_of(entry.clip.name), entry_document(entry)
        if self._backend.local is None:
            raise StorageError(
                f"{self._backend} is not on this machine",
                expected="a dataset in a folder, to which clips are committed one by one",
                repair="write to a folder, and share it with `teachonce push`",
            )
        parse_entry(content, entry.clip.name, f"{self._backend}/{name}")
        write_durably(self._backend.local / name, content)

    def _content(self, clip: str) -> bytes:
        try:
            if not re.fullmatch(CLIP_NAME, clip):
                raise FileNotFoundError(clip)
            return self._backend.read(_entry_of(clip), JSON_BYTES)
        except FileNotFoundError as error:
            raise DatasetError(
                f"clip {clip!r} is not in the ledger",
                expected=f"a committed clip: there are {len(self.clips())}, listed by `teachonce inspect`",
                repair="correct the name, or extract the clip",
            ) from error


def _entry_of(clip: str) -> str:
    return f"ledger/{clip}.json"

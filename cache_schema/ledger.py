"""What is committed: one small JSON file a clip, written last. Not in the ledger, not there."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cache_schema.durable import sha256_of, write_durably
from cache_schema.errors import DatasetError

if TYPE_CHECKING:
    from pathlib import Path

Split = Literal["train", "val"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClipInfo(_Record):
    """A clip and where it comes from; the attributes of its group."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")
    """Name of the raw clip; also its folder, so it can never leave the dataset."""
    frames: int = Field(ge=1)
    """Frames, all of them, in order from the first."""
    split: Split
    """Side of the train/validation split."""
    scenario: str = ""
    town: str = ""
    route: str = ""
    weather: str = ""


class FileRecord(_Record):
    """Size and digest of one file of a clip."""

    nbytes: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class LedgerEntry(_Record):
    """One committed clip."""

    clip: ClipInfo
    files: dict[str, FileRecord]
    """Every file below the clip's folder, by its path relative to that folder."""
    digest: str
    """sha256 over the clip's description and its files: equal digests, equal clips."""
    wall_s: float = Field(ge=0)
    """The clip's share of the wall time of the run that made it; over all clips of a run, its length."""
    writer: str
    """Machine that wrote it."""

    @property
    def nbytes(self) -> int:
        """Stored bytes of the clip."""
        return sum(file.nbytes for file in self.files.values())


def digest_of(clip: ClipInfo, files: dict[str, FileRecord]) -> str:
    """Digest of a clip's content, whoever made it and however long that took."""
    content = {
        "clip": clip.model_dump(mode="json"),
        "files": {path: record.model_dump(mode="json") for path, record in files.items()},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def record_files(folder: Path) -> dict[str, FileRecord]:
    """Size and digest of every file below ``folder``."""
    return {
        path.relative_to(folder).as_posix(): FileRecord(nbytes=path.stat().st_size, sha256=sha256_of(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class Ledger:
    """The folder ``ledger/`` of a latent dataset."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def clips(self) -> tuple[str, ...]:
        """Names of the committed clips, sorted."""
        if not self.folder.is_dir():
            return ()
        return tuple(sorted(path.stem for path in self.folder.glob("*.json") if path.name[0] != "."))

    def read(self, clip: str) -> LedgerEntry:
        """Return a clip's entry.

        Raises:
            DatasetError: There is none, it does not parse, or its digest does not fit what it lists.
        """
        path = self.folder / f"{clip}.json"
        try:
            entry = LedgerEntry.model_validate_json(path.read_bytes())
        except FileNotFoundError as error:
            raise DatasetError(
                f"clip {clip!r} is not in the ledger",
                expected=f"a committed clip: there are {len(self.clips())}, listed by `teachonce inspect`",
                repair="correct the name, or extract the clip",
            ) from error
        except ValidationError as error:
            raise DatasetError(
                f"the ledger entry {path} cannot be read: {error}",
                expected="the JSON that the commit of the clip wrote",
                repair=f"delete {path.name} and extract the clip again",
            ) from error
        if entry.digest != digest_of(entry.clip, entry.files) or entry.clip.name != clip:
            raise DatasetError(
                f"the ledger entry {path} contradicts itself",
                expected="a digest over the clip and the files that it lists, under the clip's own name",
                repair=f"delete {path.name} and extract the clip again",
            )
        return entry

    def commit(self, entry: LedgerEntry) -> None:
        """Make a clip part of the dataset."""
        write_durably(self.folder / f"{entry.clip.name}.json", entry.model_dump_json(indent=1).encode())

"""Writing a latent dataset: who made it is settled first, then clips are added one by one."""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING

import zarr

from cache_schema.dataset.clip_writer import PARTIAL, ClipWriter, disk_errors
from cache_schema.dataset.reader import read_manifest
from cache_schema.errors import DatasetError, IdentityError
from cache_schema.format.ledger import ClipInfo, Ledger
from cache_schema.format.manifest import parse_root, root_document
from cache_schema.storage.atomic_io import write_durably
from cache_schema.storage.locks import committing, hold
from cache_schema.vocabulary.driving import GROUND_TRUTH

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path

    from cache_schema.format.manifest import Manifest


@contextlib.contextmanager
def writing(path: Path) -> Generator[None]:
    """Hold a dataset's folder for one run, and clear away what killed runs have left.

    Args:
        path: The dataset's folder; made if it does not exist.

    Raises:
        DatasetError: Another run is writing, something else is there, or the disk refuses.
    """
    check_place(path)
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    with hold(path):
        if (path / "zarr.json").exists():
            read_manifest(path)  # only our own rubbish is cleared
        with disk_errors(path):
            clear_rubbish(path)
        try:
            yield
        finally:
            shutil.rmtree(path / PARTIAL, ignore_errors=True)


def check_place(path: Path) -> None:
    """Check that ``path`` is a dataset, or a place for one.

    Raises:
        DatasetError: There is something else.
    """
    for name in ("clips", "ledger", "assets", PARTIAL):
        if (path / name).is_symlink():
            raise DatasetError(
                f"{path / name} is a symbolic link",
                expected="a folder of the dataset's own: a writer would clear away what is behind a link",
                repair="put the folder itself there, or choose another path",
            )
    for name in ("clips", "ledger"):
        if (path / "zarr.json").exists() and not (path / name).is_dir():
            raise DatasetError(
                f"{path / name} is missing",
                expected="clips and their ledger: a writer clears away what has no entry",
                repair="copy the folder again; it was there before zarr.json was written",
            )
    foreign: list[str] = []
    if path.exists() and not path.is_dir():
        foreign = [path.name]
    elif path.is_dir() and not (path / "zarr.json").exists():
        # A run that was killed before zarr.json leaves the assets, two empty folders and hidden files.
        inside = [entry for folder in ("clips", "ledger") for entry in (path / folder).glob("*")]
        around = [entry for entry in path.iterdir() if entry.name not in ("assets", "clips", "ledger")]
        foreign = [
            str(entry.relative_to(path))
            for entry in (*around, *inside)
            if not entry.name.startswith(".") and entry != path / "clips" / "zarr.json"
        ]
    if foreign:
        raise DatasetError(
            f"{path} is no latent dataset, but it is not empty: {', '.join(foreign[:5])}",
            expected="a new path, or a dataset with its zarr.json to go on with",
            repair="choose another path; if this is a dataset that lost its zarr.json, copy that file again",
        )


def establish(path: Path, manifest: Manifest, assets: Mapping[str, bytes]) -> None:
    """Make the dataset, or check that it was made by the same teacher. The folder must be held.

    Args:
        path: The dataset's folder.
        manifest: Who writes, and what every clip will hold.
        assets: Bytes of every file that ``manifest.assets`` names.

    Raises:
        IdentityError: The dataset at ``path`` was made by somebody else.
    """
    if (path / "zarr.json").exists():
        _check_same(path, read_manifest(path), manifest)
        return
    root = root_document(manifest)
    parse_root(root, str(path))  # rather now than by whoever reads
    with disk_errors(path):
        for name, content in assets.items():
            (path / "assets").mkdir(exist_ok=True)
            write_durably(path / "assets" / name, content)
        zarr.create_group(path / "clips", overwrite=True)
        # Made now, so that the folder itself is on the disk before any entry.
        (path / "ledger").mkdir(exist_ok=True)
        # Written last: a folder without it is no dataset yet.
        write_durably(path / "zarr.json", root)


class DatasetWriter:
    """Adds clips to a dataset from one process. Use it as a context manager.

    Args:
        path: The dataset's folder; made if it does not exist.
        manifest: Who writes, and what every clip will hold.
        assets: Bytes of every file that ``manifest.assets`` names.

    Raises:
        IdentityError: The dataset at ``path`` was made by somebody else.
        DatasetError: Another run is writing to it.
    """

    def __init__(self, path: Path, manifest: Manifest, assets: Mapping[str, bytes] | None = None) -> None:
        self.path = path
        self.manifest = manifest
        self._assets = assets or {}
        self._held = contextlib.ExitStack()

    def __enter__(self) -> DatasetWriter:
        with contextlib.ExitStack() as stack:
            stack.enter_context(writing(self.path))
            establish(self.path, self.manifest, self._assets)
            self._held = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def committed(self) -> tuple[str, ...]:
        """Names of the clips that are already there."""
        return Ledger(self.path / "ledger").clips()

    def clip(self, info: ClipInfo) -> ClipWriter:
        """Begin one clip."""
        return ClipWriter(self.path, self.manifest, info)


def clear_rubbish(path: Path) -> None:
    """Remove what killed runs have left, and folders of clips that are not in the ledger."""
    # A worker that has outlived its run may still be committing.
    with committing(path):
        shutil.rmtree(path / PARTIAL, ignore_errors=True)
        for folder in (path, path / "assets", path / "ledger"):
            for unfinished in folder.glob(".*.tmp"):
                unfinished.unlink(missing_ok=True)
        committed = set(Ledger(path / "ledger").clips())
        for folder in (path / "clips").glob("*/"):
            if folder.name in committed:
                continue
            if folder.is_symlink():
                folder.unlink()  # what it leads to is none of ours
            else:
                shutil.rmtree(folder)


def differences(there: Manifest, mine: Manifest) -> list[tuple[str, object, object]]:
    """Fields in which the identities of two datasets differ, by dotted name, with both values."""
    found = _differing_leaves(there.identity(), mine.identity())
    if any(field.startswith("teacher") for field, _, _ in found):
        # Assets follow from the teacher: their hashes would only hide what matters.
        found = [difference for difference in found if not difference[0].startswith("assets")]
    return found


_ADDABLE = frozenset(f"features.{spec.name}" for spec in GROUND_TRUTH)


def _check_same(path: Path, there: Manifest, mine: Manifest) -> None:
    found = differences(there, mine)
    if found:
        rows = "\n".join(f"    {field}: {old!r} there, {new!r} now" for field, old, new in found)
        repair = "use the same teacher, options and data, or another dataset path"
        if all(old is None and field in _ADDABLE for field, old, _ in found):
            repair = f"add the truth that it lacks: `teachonce add-truth {path} --data ROOT`"
        raise IdentityError(
            f"{path} was made from something else:\n{rows}",
            expected="the same teacher, checkpoint, preprocessing, features and data in every field",
            repair=repair,
        )


def _differing_leaves(there: object, mine: object, field: str = "") -> list[tuple[str, object, object]]:
    """Leaves in which two JSON values differ, by dotted name."""
    if isinstance(there, dict) and isinstance(mine, dict):
        return [
            difference
            for key in sorted({*there, *mine})
            for difference in _differing_leaves(there.get(key), mine.get(key), f"{field}.{key}".lstrip("."))
        ]
    return [] if there == mine else [(field, there, mine)]

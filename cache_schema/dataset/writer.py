"""Writing a latent dataset: one run holds it, its manifest is settled first, clips are added one by one."""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING, Self

from cache_schema.dataset.clip_writer import ClipWriter
from cache_schema.dataset.commit import PARTIAL, clear_partial, discard_unfinished, disk_errors
from cache_schema.dataset.quarantine import finish_setting_aside
from cache_schema.dataset.reader import read_manifest
from cache_schema.errors import DatasetError, IdentityError
from cache_schema.format.array_metadata import CLIPS_GROUP, as_json
from cache_schema.format.identity import difference_rows, differences
from cache_schema.format.ledger import ClipInfo, Ledger
from cache_schema.format.manifest import parse_root, root_document
from cache_schema.storage.atomic_io import make_folder, write_durably
from cache_schema.storage.local_folder import LocalBackend
from cache_schema.storage.locks import committing, hold
from cache_schema.storage.paths import refuse_inside_store
from cache_schema.storage.safe_io import JSON_BYTES, parse_json
from cache_schema.storage.stray_files import is_stray

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cache_schema.format.manifest import Manifest


class DatasetWriter:
    """Holds a dataset's folder for one run, and adds clips to it. Use it as a context manager.

    On entry it clears what killed runs have left. The folder is made if it does not exist.

    Args:
        path: The dataset's folder.
        manifest: Who writes, and what every clip holds; None to hold the folder only, where ``establish`` is
            called once that is known.
        assets: Bytes of every file that ``manifest.assets`` names.

    Raises:
        IdentityError: The dataset at ``path`` was made by another teacher, or from other data.
        DatasetError: Another run is writing, something else is at ``path``, or the disk refuses.
    """

    def __init__(
        self, path: Path, manifest: Manifest | None = None, assets: Mapping[str, bytes] | None = None
    ) -> None:
        self.path = path
        self.manifest = manifest
        self._assets = assets or {}
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Self:
        check_path(self.path)
        with disk_errors(self.path):
            make_folder(self.path)
        with contextlib.ExitStack() as stack:
            stack.enter_context(hold(self.path))
            stack.callback(discard_unfinished, self.path)
            if (self.path / "zarr.json").exists():
                read_manifest(self.path)  # only remains of our own are cleared
            with disk_errors(self.path):
                clear_remains(self.path)
            if self.manifest is not None:
                establish(self.path, self.manifest, self._assets)
            self._held = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def committed(self) -> tuple[str, ...]:
        """Return the names of the clips that the dataset has."""
        return Ledger(self.path).clips()

    def clip(self, info: ClipInfo) -> ClipWriter:
        """Begin one clip."""
        assert self.manifest is not None, "the dataset is not established yet"
        return ClipWriter(self.path, self.manifest, info)


def establish(path: Path, manifest: Manifest, assets: Mapping[str, bytes]) -> None:
    """Make the dataset, or check that it was made by the same teacher. The folder must be held.

    Args:
        path: The dataset's folder.
        manifest: Who writes, and what every clip holds.
        assets: Bytes of every file that ``manifest.assets`` names and that is not there yet.

    Raises:
        IdentityError: The dataset at ``path`` was made by another teacher, or from other data.
        DatasetError: The disk refuses.
    """
    if (path / "zarr.json").exists():
        _check_same(path, read_manifest(path), manifest)
        return
    root = root_document(manifest)
    parse_root(root, str(path))  # an error now is better than one in every reader
    with disk_errors(path), committing(path):
        for name, content in assets.items():
            (path / "assets").mkdir(exist_ok=True)
            write_durably(path / "assets" / name, content)
        # Made now, so that the folders themselves are on the disk before any clip and any entry.
        for folder in ("clips", "ledger"):
            (path / folder).mkdir(exist_ok=True)
        write_durably(path / "clips" / "zarr.json", as_json(CLIPS_GROUP))
        # Written last: a folder without it is no dataset yet.
        write_durably(path / "zarr.json", root)


def check_path(path: Path) -> None:
    """Check that ``path`` is a dataset, or that one can be made there.

    Raises:
        DatasetError: Something else is there.
        RequestError: It is inside another dataset.
    """
    refuse_inside_store(path)
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
            if not is_stray(entry.name) and entry != path / "clips" / "zarr.json"
        ]
    if foreign:
        raise DatasetError(
            f"{path} is no latent dataset, but it is not empty: {', '.join(foreign[:5])}",
            expected="a new path, or a dataset with its zarr.json to go on with",
            repair="choose another path; if this is a dataset that lost its zarr.json, copy that file again",
        )


def clips_group_wrong(path: Path) -> str | None:
    """Return what is wrong with ``clips/zarr.json``, which has one possible content; None for nothing."""
    try:
        if parse_json(LocalBackend(path).read("clips/zarr.json", JSON_BYTES)) != CLIPS_GROUP:
            return "clips/zarr.json is not that of an empty group"
    except (ValueError, FileNotFoundError, DatasetError) as error:
        reason = error.happened if isinstance(error, DatasetError) else error
        return f"clips/zarr.json cannot be read: {reason}"
    return None


def clear_remains(path: Path) -> None:
    """Remove what killed runs have left, and folders of clips that are not in the ledger.

    Of a dataset, ``clips/zarr.json`` is written again where a power cut or an accident has changed it.
    """
    # A worker that has outlived its run may still be committing.
    with committing(path):
        clear_partial(path)
        for folder in (path, path / "assets", path / "ledger", path / "clips"):
            for unfinished in folder.glob(".*.tmp"):
                unfinished.unlink(missing_ok=True)
        finish_setting_aside(path)
        committed = set(Ledger(path).clips())
        for folder in (path / "clips").glob("*/"):
            if folder.name in committed or is_stray(folder.name):
                continue
            if folder.is_symlink():
                folder.unlink()  # the folder that it leads to is not the dataset's
            else:
                shutil.rmtree(folder)
        if (path / "zarr.json").exists() and clips_group_wrong(path):
            write_durably(path / "clips" / "zarr.json", as_json(CLIPS_GROUP))


def _check_same(path: Path, there: Manifest, mine: Manifest) -> None:
    found = differences(there, mine)
    if found:
        repair = "use the same teacher, options and data, or another dataset path"
        if all(difference.adds_ground_truth for difference in found):
            repair = f"add the ground truth that it lacks: `teachonce add-ground-truth {path} --data ROOT`"
        raise IdentityError(
            f"{path} was made from something else:\n{difference_rows(found, '{} there, {} now')}",
            expected="the same teacher, checkpoint, preprocessing, features and data in every field",
            repair=repair,
        )

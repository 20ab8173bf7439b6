"""Writing a latent dataset: clip by clip, each committed whole or not at all.

A clip grows under ``.partial/``, is flushed to the disk, renamed into ``clips/``, and only then entered in
the ledger. A kill at any instant leaves either a committed clip or rubbish that the next writer clears.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import shutil
from typing import IO, TYPE_CHECKING, Self

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec

from cache_schema.durable import rename_durably, sync_tree, write_durably
from cache_schema.errors import DatasetError, FeatureError, IdentityError
from cache_schema.layout import fill_value_of, layout_of
from cache_schema.ledger import ClipInfo, Ledger, LedgerEntry, digest_of, record_files
from cache_schema.store import read_manifest

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from pathlib import Path

    from cache_schema.features import FeatureSpec
    from cache_schema.manifest import Manifest

PARTIAL = ".partial"
"""Folder of clips that are being written."""


class DatasetWriter:
    """The one process that may add clips to a dataset. Use it as a context manager.

    Args:
        path: The dataset's folder; made if it does not exist.
        manifest: Who writes, and what every clip will hold.
        assets: Bytes of every file that ``manifest.assets`` names.

    Raises:
        IdentityError: The dataset at ``path`` was made by somebody else.
        DatasetError: Another process is writing to it.
    """

    def __init__(self, path: Path, manifest: Manifest, assets: Mapping[str, bytes] | None = None) -> None:
        self.path = path
        self.manifest = manifest
        self.ledger = Ledger(path / "ledger")
        self._assets = assets or {}

    def __enter__(self) -> Self:
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.path)
        try:
            if (self.path / "zarr.json").exists():
                _check_same(self.path, read_manifest(self.path), self.manifest)
            else:
                self._create()
            self._clear_rubbish()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path / PARTIAL, ignore_errors=True)
        self._lock.close()

    def committed(self) -> tuple[str, ...]:
        """Names of the clips that are already there."""
        return self.ledger.clips()

    def clip(self, info: ClipInfo) -> ClipWriter:
        """Begin one clip."""
        return ClipWriter(self, info)

    def _create(self) -> None:
        for name, content in self._assets.items():
            (self.path / "assets").mkdir(exist_ok=True)
            write_durably(self.path / "assets" / name, content)
        zarr.create_group(self.path / "clips", overwrite=True)
        root = {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": {"teachonce": self.manifest.model_dump(mode="json")},
        }
        # Written last: a folder without it is no dataset yet.
        write_durably(self.path / "zarr.json", json.dumps(root, indent=1).encode())

    def _clear_rubbish(self) -> None:
        shutil.rmtree(self.path / PARTIAL, ignore_errors=True)
        committed = set(self.committed())
        for folder in (self.path / "clips").iterdir():
            if folder.is_dir() and folder.name not in committed:
                shutil.rmtree(folder)


class ClipWriter:
    """One clip on its way into a dataset.

    Values are appended feature by feature, in the order of frames; whole files are written as soon as they
    are full. ``commit`` makes the clip part of the dataset, ``abort`` removes every trace of it.

    Raises:
        FeatureError: A value is not finite, overflows its type, or has another shape than promised.
        DatasetError: The disk refuses, or the clip is committed before all of its frames are there.
    """

    def __init__(self, dataset: DatasetWriter, info: ClipInfo) -> None:
        self.info = info
        self._dataset = dataset
        self._folder = dataset.path / PARTIAL / info.name
        with _disk_errors(dataset.path):
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder.parent.mkdir(exist_ok=True)
            group = zarr.create_group(self._folder, attributes=info.model_dump(mode="json", exclude={"name"}))
            self._columns = {spec.name: _Column(group, spec, info) for spec in dataset.manifest.features}

    def append(self, values: Mapping[str, np.ndarray]) -> None:
        """Add the next frames of some features: an array (n, *shape) for each."""
        with _disk_errors(self._dataset.path):
            self._append(values)

    def _append(self, values: Mapping[str, np.ndarray]) -> None:
        for name, array in values.items():
            column = self._columns.get(name)
            if column is None:
                raise FeatureError(
                    f"clip {self.info.name!r}: feature {name!r} was never promised",
                    expected=f"one of {', '.join(self._columns)}",
                    repair="add its FeatureSpec to what the teacher promises",
                )
            column.append(array)

    def commit(self, *, wall_s: float) -> LedgerEntry:
        """Flush the clip, move it into place and enter it in the ledger.

        Args:
            wall_s: The clip's share of the wall time that its run took so far.
        """
        with _disk_errors(self._dataset.path):
            return self._commit(wall_s)

    def _commit(self, wall_s: float) -> LedgerEntry:
        for column in self._columns.values():
            column.finish()
        sync_tree(self._folder)
        files = record_files(self._folder)
        entry = LedgerEntry(
            clip=self.info,
            files=files,
            digest=digest_of(self.info, files),
            wall_s=round(wall_s, 3),
            writer=platform.node(),
        )
        rename_durably(self._folder, self._dataset.path / "clips" / self.info.name)
        self._dataset.ledger.commit(entry)
        return entry

    def abort(self) -> None:
        """Forget the clip."""
        shutil.rmtree(self._folder, ignore_errors=True)


class _Column:
    """One feature of one clip: gathers frames until a file is full, then writes it."""

    def __init__(self, group: zarr.Group, spec: FeatureSpec, info: ClipInfo) -> None:
        self.spec = spec
        self.clip = info.name
        self.frames = info.frames
        layout = layout_of(spec, info.frames)
        self.array = group.create_array(
            spec.name,
            shape=(info.frames, *spec.shape),
            dtype=spec.dtype,
            chunks=layout.chunks,
            shards=layout.shards,
            filters=None,
            compressors=[Crc32cCodec()],
            fill_value=fill_value_of(spec),
            dimension_names=("frame", *spec.axes),
            # One folder a feature, not one a dimension.
            chunk_key_encoding={"name": "default", "separator": "."},
            attributes=spec.model_dump(
                mode="json", include={"role", "unit", "frame", "encoding", "description"}
            ),
            # A chunk of zeros is a value, and a file that is absent is damage.
            config={"write_empty_chunks": True},
        )
        self.buffer = np.empty((layout.frames_a_file, *spec.shape), spec.dtype)
        self.written = 0
        self.gathered = 0

    def append(self, values: np.ndarray) -> None:
        values = np.asarray(values)
        begin = self.written + self.gathered
        if values.shape[1:] != self.spec.shape or begin + len(values) > self.frames:
            raise FeatureError(
                f"{self._where(begin)}: got an array of shape {values.shape}",
                expected=f"(n, {', '.join(map(str, self.spec.shape))}) with n at most {self.frames - begin}",
                repair="let the teacher keep what its FeatureSpec promises",
            )
        values = self._cast(values, begin)
        while len(values):
            count = min(len(values), len(self.buffer) - self.gathered)
            self.buffer[self.gathered : self.gathered + count] = values[:count]
            self.gathered += count
            values = values[count:]
            if self.gathered == len(self.buffer):
                self._flush()

    def finish(self) -> None:
        self._flush()
        if self.written != self.frames:
            raise FeatureError(
                f"{self._where(self.written)}: the clip ends here",
                expected=f"{self.frames} frames",
                repair="append every frame of every feature before the commit",
            )

    def _flush(self) -> None:
        if not self.gathered:
            return
        self.array[self.written : self.written + self.gathered] = self.buffer[: self.gathered]
        self.written += self.gathered
        self.gathered = 0

    def _cast(self, values: np.ndarray, begin: int) -> np.ndarray:
        dtype = np.dtype(self.spec.dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            cast = values.astype(dtype, copy=False)
        if dtype.kind == "f":
            # An overflow becomes inf in the cast, so one look finds both faults.
            bad = ~np.isfinite(cast)
        elif values.dtype == dtype:
            return cast
        else:
            bad = cast != values
        if bad.any():
            frame = begin + int(np.argwhere(bad)[0][0])
            raise FeatureError(
                f"{self._where(frame)}: {int(bad.sum())} of {bad.size} values do not fit {dtype}, "
                f"the first is {values[bad].flat[0]}",
                expected=f"finite values that {dtype} can hold",
                repair="look at the teacher's precision and at this frame's input; the clip was left out",
            )
        return cast

    def _where(self, frame: int) -> str:
        return f"clip {self.clip!r}, feature {self.spec.name!r}, frame {frame}"


@contextlib.contextmanager
def _disk_errors(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise DatasetError(
            f"the disk under {path} refuses: {error}",
            expected="room for the clips that are being written, and the right to write",
            repair="free space or mend the disk, then run the same command again; committed clips are safe",
        ) from error


def _lock(path: Path) -> IO[str]:
    """Hold the dataset for this process; the kernel lets go of it however the process ends."""
    file = (path / ".lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise DatasetError(
            f"{path} is being written by another process ({holder})",
            expected="one writer at a time",
            repair="wait for it to end, or stop it and run this command again",
        ) from error
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()}")
    file.flush()
    return file


def _check_same(path: Path, there: Manifest, mine: Manifest) -> None:
    differences = _differences(there.identity(), mine.identity())
    if differences:
        rows = "\n".join(f"    {field}: {old!r} there, {new!r} now" for field, old, new in differences)
        raise IdentityError(
            f"{path} was made by another teacher, checkpoint or preprocessing:\n{rows}",
            expected="the same identity in every field, since a dataset never mixes two",
            repair="use the same teacher, checkpoint and options, or another dataset path",
        )


def _differences(there: object, mine: object, field: str = "") -> list[tuple[str, object, object]]:
    """Leaves in which two JSON values differ, by dotted name."""
    if isinstance(there, dict) and isinstance(mine, dict):
        return [
            difference
            for key in sorted({*there, *mine})
            for difference in _differences(there.get(key), mine.get(key), f"{field}.{key}".lstrip("."))
        ]
    return [] if there == mine else [(field, there, mine)]

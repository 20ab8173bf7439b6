"""Reading untrusted files and JSON.

A dataset may come from an untrusted source. Whatever is read of it is bounded before it is read; symbolic
links are refused, since they would lead out of the dataset, and so is everything that is not a plain file.
"""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NoReturn

from cache_schema.errors import DatasetError

if TYPE_CHECKING:
    from pathlib import Path

JSON_BYTES = 4 * 2**20
"""One JSON file. An entry of 30 arrays takes 5 kB, a manifest 20 kB; parsing takes up to 30 times as much
memory."""
JSON_DEPTH = 32
"""Nesting of JSON. A manifest has 6 levels; Python raises RecursionError at about 1,000."""
CLIP_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$"
"""Pattern of a clip's name. No such name leaves the folder that it is in."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Characters that move a terminal's cursor, except line feed and tab."""


def parse_json(content: bytes) -> Any:
    """Parse untrusted JSON.

    Raises:
        ValueError: It is not UTF-8, too long, too deep, or repeats a key; a number is not finite; a string
            holds control characters.
    """
    if len(content) > JSON_BYTES:
        raise ValueError(f"{len(content)} bytes of JSON are more than {JSON_BYTES}")
    try:
        value = json.loads(
            content.decode(), object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite
        )
    except RecursionError as error:
        raise ValueError(f"JSON is nested more than {JSON_DEPTH} deep") from error
    waiting = [(value, 0)]
    while waiting:
        node, depth = waiting.pop()
        if depth > JSON_DEPTH:
            raise ValueError(f"JSON is nested more than {JSON_DEPTH} deep")
        if isinstance(node, dict):
            waiting += ((part, depth + 1) for pair in node.items() for part in pair)
        elif isinstance(node, list):
            waiting += ((part, depth + 1) for part in node)
        elif isinstance(node, str) and _CONTROL.search(node):
            raise ValueError(f"the string {node[:80]!r} holds control characters")
    return value


def canonical_json(value: object) -> bytes:
    """Return the bytes that digests are taken over: equal for equal values, whatever the order of keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def read_file(root: Path, name: str, limit: int = JSON_BYTES) -> bytes:
    """Return the bytes of a file of a dataset.

    Args:
        root: The dataset's folder. It may lie behind symbolic links; nothing inside may.
        name: Path of the file relative to ``root``.
        limit: Largest size that is read.

    Raises:
        FileNotFoundError: There is no such file.
        DatasetError: It is longer than that, no plain file, or behind a symbolic link.
    """
    size = file_size(root, name)
    if size is None:
        raise FileNotFoundError(root / name)
    if size > limit:
        raise DatasetError(
            f"{root / name} has {size} bytes",
            expected=f"at most {limit}",
            repair="fetch this file again from where the dataset came from",
        )
    return (root / name).read_bytes()


def file_size(root: Path, name: str) -> int | None:
    """Return the size of a file of a dataset in bytes; None if there is none.

    Raises:
        DatasetError: It is no plain file, or behind a symbolic link.
    """
    status = _status(root, name)
    if status is None:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise DatasetError(
            f"{root / name} is no file",
            expected="a plain file",
            repair="fetch this file again from where the dataset came from",
        )
    return status.st_size


def file_names(root: Path, folder: str) -> list[str]:
    """Return the names in a folder of a dataset that are no folders, sorted; none without the folder.

    Raises:
        DatasetError: It is no folder, or behind a symbolic link.
    """
    status = _status(root, folder)
    if status is None:
        return []
    if not stat.S_ISDIR(status.st_mode):
        raise DatasetError(
            f"{root / folder} is no folder",
            expected="a plain folder",
            repair="fetch the dataset again from where it came from",
        )
    with os.scandir(root / folder) as entries:
        # Links are listed too, so that reading one raises an error that names it.
        return sorted(entry.name for entry in entries if not entry.is_dir(follow_symlinks=False))


def _status(root: Path, name: str) -> os.stat_result | None:
    path = os.fspath(root)
    status = None
    for part in PurePosixPath(name).parts:
        path = os.path.join(path, part)
        try:
            status = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if stat.S_ISLNK(status.st_mode):
            raise DatasetError(
                f"{path} is a symbolic link",
                expected="plain files and folders: a link could lead anywhere",
                repair="put the file itself there, or do not use the dataset if its source is not trusted",
            )
    return status


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError(f"a key repeats among {sorted(key for key, _ in pairs)[:10]}")
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{digits[:40]} is not finite")
    return value

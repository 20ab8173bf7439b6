"""Reading untrusted files: a dataset may come from an untrusted source, so it is bounded in every way."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from typing import TYPE_CHECKING, Any, NoReturn

from cache_schema.errors import DatasetError

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

JSON_BYTES = 4 * 2**20
"""One JSON file. An entry of 30 arrays takes 5 kB, a manifest 20 kB; parsing takes up to 30 times as much
memory."""
JSON_DEPTH = 32
"""Nesting of JSON. A manifest has 6 levels; Python raises RecursionError at about 1,000."""
CLIP_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$"
"""Pattern of a clip's name. No such name leaves the folder that it is in."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Characters that move a terminal's cursor, except line feed and tab; and halves of a character."""


def open_plain(path: Path, *, links: bool = False) -> BinaryIO:
    """Open a plain file for reading. A pipe, which would make a reader wait, or a device is refused.

    Args:
        path: The file.
        links: Whether it may lie behind symbolic links.

    Raises:
        FileNotFoundError: There is no such file.
        DatasetError: It is no plain file.
    """
    return os.fdopen(_open(path, links=links)[0], "rb")


def read_plain(path: Path | str, limit_bytes: int, *, links: bool = False) -> bytes:
    """Return the bytes of a plain file, as ``open_plain`` opens it.

    Raises:
        FileNotFoundError: There is no such file.
        DatasetError: It is no plain file, or larger than ``limit_bytes``.
    """
    descriptor, nbytes = _open(path, links=links)
    content = b""
    try:
        # One byte more than there are shows a file that grows.
        while len(content) <= limit_bytes and (block := os.read(descriptor, min(nbytes, limit_bytes) + 1)):
            content += block
    finally:
        os.close(descriptor)
    if len(content) > limit_bytes:
        raise DatasetError(
            f"{path} has more than {limit_bytes} bytes",
            expected=f"at most {limit_bytes}",
            repair="fetch this file again from where it came from",
        )
    return content


def _open(path: Path | str, *, links: bool) -> tuple[int, int]:
    """Return the descriptor of a plain file, and its size."""
    follow = 0 if links else os.O_NOFOLLOW
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | follow)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):
            raise
        raise _not_plain(path) from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise _not_plain(path)
    return descriptor, status.st_size


def _not_plain(path: Path | str) -> DatasetError:
    return DatasetError(
        f"{path} is no plain file",
        expected="a plain file: no pipe, device, folder or symbolic link",
        repair="put the file itself there",
    )


def parse_json(content: bytes, *, structure: bool = True) -> Any:
    """Parse untrusted JSON.

    Args:
        content: UTF-8.
        structure: Check how deep it is, and that no key repeats, which takes as long as all the rest.

    Raises:
        ValueError: It is not UTF-8, too long, too deep, or repeats a key; a number is not finite; a string
            holds control characters.
    """
    if len(content) > JSON_BYTES:
        raise ValueError(f"{len(content)} bytes of JSON are more than {JSON_BYTES}")
    text = content.decode()
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite)
        if structure and _count_keys(value) != text.count(":"):
            # A key repeats, or a string holds a colon.
            json.loads(text, object_pairs_hook=_unique)
    except RecursionError as error:
        raise ValueError(f"JSON is nested more than {JSON_DEPTH} deep") from error
    # Only from an escape, or from beyond ASCII, can a string get a control character.
    if "\\" in text or not text.isascii() or "\x7f" in text:
        _check_strings(value)
    return value


def canonical_json(value: object) -> bytes:
    """Return the bytes that digests are taken over: equal for equal values, whatever the order of keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _count_keys(value: Any) -> int:
    """Count the keys of all objects, and check how deep they are nested."""
    keys, waiting = 0, [(value, 0)] if isinstance(value, dict | list) else []
    while waiting:
        node, depth = waiting.pop()
        if depth > JSON_DEPTH:
            raise ValueError(f"JSON is nested more than {JSON_DEPTH} deep")
        if type(node) is dict:
            keys += len(node)
            node = node.values()
        for part in node:
            if type(part) is dict or type(part) is list:
                waiting.append((part, depth + 1))
    return keys


def _check_strings(value: Any) -> None:
    waiting = [value]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            waiting += (part for pair in node.items() for part in pair)
        elif isinstance(node, list):
            waiting += node
        elif isinstance(node, str) and _CONTROL.search(node):
            raise ValueError(f"the string {node[:80]!r} holds control characters")


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

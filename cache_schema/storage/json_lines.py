"""Logs of one JSON object a line, which a kill may cut short at any byte."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any, Self

from cache_schema.storage.atomic_io import naming

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path


class JsonLines:
    """Appends objects to a log, each given to the operating system at once. Use it as a context manager.

    Args:
        path: The log; made if it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Self:
        self._file = self.path.open("ab", buffering=0)  # a line that the disk refuses is not tried again
        if self._file.tell() and not _ends_a_line(self.path):
            self._file.write(b"\n")  # so that a line which a kill cut short takes no other with it
        return self

    def __exit__(self, *_: object) -> None:
        with naming(self.path):
            self._file.close()

    def write(self, value: Mapping[str, Any]) -> None:
        """Add one line."""
        with naming(self.path):
            self._file.write(as_line(value))


def as_line(value: Mapping[str, Any]) -> bytes:
    """Return one object as a line of a log."""
    return json.dumps(value).encode() + b"\n"


def read_json_lines(path: Path, keys: Iterable[str] = ()) -> list[dict[str, Any]]:
    """Return the objects of a log that have all of ``keys``; none where there is no such file.

    Lines that are no JSON object, because a kill cut them short or the disk broke them, are left out.
    """
    if not path.is_file():
        return []
    objects = []
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError):
            value = json.loads(line)
            if isinstance(value, dict) and value.keys() >= {*keys}:
                objects.append(value)
    return objects


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"

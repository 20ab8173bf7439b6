"""What a server did, a line of JSON an event: ``start``, ``begin``, ``tick``, ``end``, ``error``.

Every line has ``time`` (s since 1970); those of a route have its ``save_name``, ``session`` and ``slot``.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

from cache_schema.storage.json_lines import JsonLines

if TYPE_CHECKING:
    from pathlib import Path


class DriveLog(ExitStack):
    """Appends events to a log. Use it as a context manager.

    Args:
        path: The log; None for nowhere.
    """

    def __init__(self, path: Path | None) -> None:
        super().__init__()
        self._lines = None if path is None else JsonLines(path)

    def __enter__(self) -> Self:
        if self._lines is not None:
            self.enter_context(self._lines)
        return super().__enter__()

    def write(self, event: str, **fields: Any) -> None:
        """Append an event."""
        if self._lines is not None:
            self._lines.write({"time": time.time(), "event": event, **fields})

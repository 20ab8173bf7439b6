"""What a server did, a line of JSON an event: ``start``, ``begin``, ``tick``, ``end``, ``error``.

Every line has ``time`` (s since 1970); those of a route have its ``save_name``, ``session`` and ``slot``.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from pathlib import Path


class DriveLog:
    """Appends events to a file, each at once.

    Args:
        path: The file; None for nowhere.
    """

    def __init__(self, path: Path | None) -> None:
        self._file = path.open("a", buffering=1, encoding="utf-8") if path is not None else None

    def write(self, event: str, **fields: Any) -> None:
        """Append an event."""
        if self._file is not None:
            self._file.write(json.dumps({"time": time.time(), "event": event, **fields}) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.close()

"""Where a path of the user's leads, whatever the working folder becomes."""

from __future__ import annotations

import os
from pathlib import Path


def absolute(path: Path) -> Path:
    """Return an absolute path without ``.`` and ``..``, whose name is that of a file or a folder.

    Links stay, except where ``..`` leads out of one.
    """
    parts = Path(os.path.expanduser(path) if not os.path.lexists(path) else path).absolute().parts
    if ".." in parts:
        up = len(parts) - parts[::-1].index("..")
        return Path(*parts[:up]).resolve().joinpath(*parts[up:])
    return Path(*parts)

"""Files that operating systems and file browsers leave in every folder that they see.

They are no part of a dataset: writers leave them alone, readers never look at them, and no clip is damaged
because one lies in it.
"""

from __future__ import annotations

STRAY = {
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
    "lost+found",
    "__macosx",
    "@eadir",
    "$recycle.bin",
    "system volume information",
}
"""Names, in lower case, besides those that begin with a dot, such as .DS_Store, ._x and .nfs0000."""


def is_stray(name: str) -> bool:
    """Return whether a file or folder of this name is a system's own; no part of a dataset has one."""
    return name.startswith(".") or name.lower() in STRAY

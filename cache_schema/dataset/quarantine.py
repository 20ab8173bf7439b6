"""Setting damaged clips aside.

``.quarantine/<clip>/`` holds the folder of a damaged clip as ``clip`` and its entry as ``entry.json``.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from cache_schema.errors import DatasetError
from cache_schema.storage.atomic_io import rename_durably, sync
from cache_schema.storage.locks import committing

if TYPE_CHECKING:
    from pathlib import Path

QUARANTINE = ".quarantine"
ENTRY, MOVING = "entry.json", "moving.json"
"""Names of an entry that was set aside, and of one whose clip has not followed yet."""


def set_aside(path: Path, clip: str) -> None:
    """Take a committed clip out of the dataset at ``path``, whose folder must be held, and keep it whole.

    Raises:
        DatasetError: The dataset was replaced, or its quarantine is a link.
        OSError: The disk refuses.
    """
    quarantine = path / QUARANTINE
    if quarantine.is_symlink():
        raise DatasetError(
            f"{quarantine} is a symbolic link",
            expected="a folder of the dataset's own",
            repair="delete the link and run this command again",
        )
    with committing(path):
        quarantine.mkdir(exist_ok=True)
        # A clip may have been damaged before.
        names = itertools.chain([clip], (f"{clip}.{number}" for number in itertools.count(2)))
        aside = next(quarantine / name for name in names if not (quarantine / name).exists())
        aside.mkdir()
        # The entry first: without it the clip is not part of the dataset, whatever happens next.
        rename_durably(path / "ledger" / f"{clip}.json", aside / MOVING)
        sync(path / "ledger")
        _let_follow(path, clip, aside)


def finish_setting_aside(path: Path) -> None:
    """Finish what a killed repair has begun, before its clip is cleared as a remain."""
    quarantine = path / QUARANTINE
    if quarantine.is_symlink():
        return
    for moving in quarantine.glob(f"*/{MOVING}"):
        aside = moving.parent
        if not aside.is_symlink():
            name, dot, number = aside.name.rpartition(".")
            again = dot and number.isdecimal() and (quarantine / name).exists()
            _let_follow(path, name if again else aside.name, aside)


def _let_follow(path: Path, clip: str, aside: Path) -> None:
    folder = path / "clips" / clip
    if folder.is_symlink() or folder.exists():
        rename_durably(folder, aside / "clip")
        sync(path / "clips")
    rename_durably(aside / MOVING, aside / ENTRY)

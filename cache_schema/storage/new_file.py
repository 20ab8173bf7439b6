"""A file that appears at its place whole, or not at all, whatever library writes it."""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING

from cache_schema.errors import RequestError
from cache_schema.storage.atomic_io import rename_durably, sync_tree

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path


@contextlib.contextmanager
def new_file(target: Path, *failures: type[Exception]) -> Generator[Path]:
    """Give a path to write to, of the target's own name in a hidden folder beside it.

    Once written, the file and any other that was put beside it move to the target's folder, the target last.

    Args:
        target: Where the file is to be; nothing may be there yet.
        failures: What a writing library raises besides OSError where the disk refuses.

    Raises:
        RequestError: The target is there already, its folder is not, or it cannot be written.
    """
    folder = target.with_name(f".{target.name}.partial")
    try:
        if target.exists() or not target.parent.is_dir():
            raise RequestError(
                f"{target} "
                + ("exists already" if target.exists() else "is in a folder that does not exist"),
                expected="a new file in a folder that exists",
                repair="give another path, or move what is there",
            )
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        yield folder / target.name
        sync_tree(folder)
        for file in sorted(folder.iterdir(), key=lambda file: file.name == target.name):
            rename_durably(file, target.parent / file.name)
    except (OSError, *failures) as error:
        raise RequestError(
            f"{target} cannot be written: {error}",
            expected="room for the weights, and the right to write",
            repair="free space, or give another path",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            shutil.rmtree(folder, ignore_errors=True)

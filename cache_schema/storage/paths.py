"""Where a path of the user's leads, and where nothing of ours may be put."""

from __future__ import annotations

import os
from pathlib import Path

from cache_schema.errors import RequestError


def absolute(path: Path) -> Path:
    """Return an absolute path without ``.`` and ``..``, whose name is that of a file or a folder.

    Links stay, except where ``..`` leads out of one.

    Raises:
        RequestError: The path is relative, and the working folder is gone.
    """
    try:
        parts = Path(path if os.path.lexists(path) else os.path.expanduser(path)).absolute().parts
    except FileNotFoundError as error:
        raise RequestError(
            f"{path} is relative to a working folder that has been removed",
            expected="a working folder that exists",
            repair="change to another folder, or give an absolute path",
        ) from error
    if ".." in parts:
        up = len(parts) - parts[::-1].index("..")
        return Path(*parts[:up]).resolve().joinpath(*parts[up:])
    return Path(*parts)


def refuse_inside_store(path: Path) -> None:
    """Check that a file or folder which is to be made lies in no latent dataset, nor any other Zarr store.

    Raises:
        RequestError: It does.
    """
    for folder in path.resolve().parents:
        if os.path.isfile(folder / "zarr.json"):  # which a name that is too long does not stop
            raise RequestError(
                f"{path} is inside the dataset {folder}",
                expected="a place of its own: a dataset holds what its ledger lists, and nothing else",
                repair="give another path, beside the dataset",
            )


def refuse_to_replace(path: Path, start: bytes, kind: str) -> None:
    """Check that writing to a path replaces nothing, or a file of the same kind, and touches no dataset.

    Args:
        path: The file to write.
        start: What every file of the kind begins with.
        kind: What it is called, such as "a PNG picture".

    Raises:
        RequestError: Something else is there, or the path is inside a dataset.
    """
    refuse_inside_store(path)
    if not path.exists():
        return
    if path.is_file():
        with path.open("rb") as file:
            if file.read(len(start)) in (b"", start):
                return
    raise RequestError(
        f"{path} exists already, and is not {kind}",
        expected=f"a new file, or {kind}, which is replaced",
        repair="give another path, or move what is there",
    )

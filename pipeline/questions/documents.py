"""The JSON files of data sets of questions, and the texts in them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeGuard

from cache_schema.errors import ClipError, RequestError

if TYPE_CHECKING:
    from pathlib import Path


def only_json(root: Path) -> Path:
    """Return a JSON file, or the only one in a folder.

    Raises:
        ClipError: There is none.
        RequestError: The folder holds several.
    """
    if root.is_file():
        return root
    files = sorted(path for path in root.glob("*.json") if path.name[0] != ".") if root.is_dir() else []
    if not files:
        raise ClipError(
            f"there is no JSON file in {root}" if root.is_dir() else f"{root} does not exist",
            expected="a JSON file of questions and answers, or a folder that holds one",
            repair="give that file; `teachonce demo-questions` writes one about synthetic clips",
        )
    if len(files) > 1:
        raise RequestError(
            f"{root} holds {len(files)} JSON files: {', '.join(file.name for file in files[:4])}",
            expected="one JSON file of questions and answers",
            repair="give the file itself",
        )
    return files[0]


def read_json(file: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        ClipError: It cannot be read, or is no JSON.
    """
    try:
        return json.loads(file.read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ClipError(
            f"{file} cannot be read: {error}",
            expected="a whole JSON file in UTF-8",
            repair="fetch it again, or correct it",
        ) from error


def is_text(value: object) -> TypeGuard[str]:
    """Whether a value is text that can be encoded: JSON's escapes can also spell half a character."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_said(value: object) -> TypeGuard[str]:
    """Whether a value is text with anything in it."""
    return is_text(value) and bool(value.strip())


def is_number(value: object) -> TypeGuard[int]:
    """Whether a value can be the number of a frame or a question, which are stored as int32."""
    return type(value) is int and 0 <= value < 2**31

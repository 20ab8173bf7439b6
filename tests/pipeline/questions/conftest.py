"""Small files of questions, and the images that they are about."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def write_json(tmp_path: Path) -> Callable[..., Path]:
    """Writes JSON to a file of the test's folder, and returns it."""

    def write(content: Any, name: str = "questions.json") -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
        return file

    return write


@pytest.fixture
def entry() -> Callable[..., dict[str, Any]]:
    """Makes an entry in Drive-KD's form. A key that is None is left out."""

    def make(**changes: Any) -> dict[str, Any]:
        usual = {"question": "What?", "answer": "That.", "images": ["a/1.png"], "capability": "planning"}
        return {key: value for key, value in (usual | changes).items() if value is not None}

    return make

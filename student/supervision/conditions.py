"""Under which conditions a folder's results came about: all of them under the same."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from cache_schema.errors import RequestError
from cache_schema.storage.atomic_io import write_durably

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CONDITIONS = "drive.json"
MAY_CHANGE = {"gpu"}
"""Of these, all values are kept: an evaluation may go on on another machine."""
SEPARATOR = "; "


def keep_conditions(results: Path, conditions: Mapping[str, Any]) -> None:
    """Write down under which conditions a run drives; those known of earlier ones must be the same.

    Raises:
        RequestError: They differ, or the file is damaged.
    """
    now = json.loads(json.dumps(conditions))
    before = read_conditions(results)
    for name in MAY_CHANGE & before.keys():
        values = {*before[name].split(SEPARATOR), *now.get(name, "").split(SEPARATOR)} - {""}
        now[name] = before[name] = SEPARATOR.join(sorted(values))
    if differing := sorted(name for name in before.keys() & now.keys() if before[name] != now[name]):
        name = differing[0]
        raise RequestError(
            f"{results} has results of other conditions: {', '.join(differing)} differ",
            expected=f"{name} {json.dumps(before[name])}; it is {json.dumps(now[name])}",
            repair="serve what was served before, or give another folder with --out",
        )
    if before | now != read_conditions(results):
        write_durably(results / CONDITIONS, json.dumps(before | now, indent=1).encode() + b"\n")


def read_conditions(results: Path) -> dict[str, Any]:
    """Return the conditions of a folder of results; none where nothing was driven.

    Raises:
        RequestError: Their file is damaged.
    """
    path = results / CONDITIONS
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(found, dict):
        raise _damaged(path, "it holds no object")
    return found


def _damaged(path: Path, why: str) -> RequestError:
    return RequestError(
        f"{path} cannot be read: {why}",
        expected="the conditions that `teachonce drive` wrote there",
        repair="restore it, or give another folder with --out",
    )

"""Plug-ins: rows of a table of dotted strings, imported when they are used."""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING, Any

from cache_schema.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping


def resolve(table: Mapping[str, str], name: str, *, kind: str, needs: str | None = None) -> Any:
    """Return the object that a name stands for.

    Args:
        table: Names and the ``module:attribute`` each stands for.
        name: A name of the table, or a ``module:attribute`` of the user's own.
        kind: What the table holds, for the message ("teacher", "student").
        needs: An attribute that every such object has.

    Raises:
        RequestError: The name is unknown, its module or attribute does not exist, or it is something else.
    """
    target = table.get(name, name)
    module_name, _, attribute = target.partition(":")
    if not attribute or not module_name or module_name.startswith("."):
        nearest = difflib.get_close_matches(name, table, n=1)
        raise RequestError(
            f"there is no {kind} called {name!r}" + (f"; did you mean {nearest[0]!r}?" if nearest else ""),
            expected=f"one of {', '.join(sorted(table))}, or your own as 'package.module:name'",
            repair=f"choose one of the {kind}s above",
        )
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise RequestError(
            f"the {kind} {name!r} cannot be imported: {error}",
            expected=f"an importable module {module_name!r} with an attribute {attribute!r}",
            repair="install the package that holds it, or correct the name",
        ) from error
    if needs is not None and not hasattr(found, needs):
        raise RequestError(
            f"{name!r} is no {kind}: it has no {needs!r}",
            expected=f"one of {', '.join(sorted(table))}, or an object of that kind",
            repair="correct the name",
        )
    return found


def require(plug_in: object, what: str, *needs: str) -> None:
    """Check that a plug-in has what the program will ask of it.

    Args:
        plug_in: An object of the user's own.
        what: What it is, for the message ("the teacher").
        needs: Names of attributes and methods.

    Raises:
        RequestError: It lacks some, as one that was written for an earlier version may.
    """
    lacking = [name for name in needs if not hasattr(plug_in, name)]
    if lacking:
        raise RequestError(
            f"{what} has no {', '.join(map(repr, lacking))}: "
            f"{getattr(plug_in, '__qualname__', type(plug_in).__qualname__)}",
            expected=f"an object with {', '.join(needs)}",
            repair="add what it lacks, as docs/guides shows; plug-ins for version 0.1 need a few lines more",
        )

"""Nested documents as one level."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def flatten(document: Mapping[str, Any], separator: str = ".") -> dict[str, Any]:
    """Return every value by its joined name, such as ``losses.mimic.weight``; of an empty mapping, itself."""
    flat = {}
    for name, value in document.items():
        if isinstance(value, dict) and value:
            inner = flatten(value, separator)
            flat |= {f"{name}{separator}{field}": leaf for field, leaf in inner.items()}
        else:
            flat[name] = value
    return flat

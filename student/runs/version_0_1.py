"""Configurations of version 0.1.0, which were flat and knew one student: what they mean today."""

from __future__ import annotations

from typing import Any

_STUDENT = ("hidden", "layers", "heads", "feedforward", "dropout", "batch_mixing", "mask")
_LOSSES = ("objectives", "term_warmup_steps")


def is_flat(document: Any) -> bool:
    """Return whether a configuration, as read from JSON, is one of version 0.1.0."""
    return isinstance(document, dict) and "objectives" in document and "system" not in document


def from_flat(document: dict[str, Any]) -> dict[str, Any]:
    """Return today's configuration that means the same."""
    warmup_steps = document.get("term_warmup_steps", {})
    return {
        "system": "orion-lite",
        "training": {name: value for name, value in document.items() if name not in (*_STUDENT, *_LOSSES)},
        "student": {name: document[name] for name in _STUDENT if name in document},
        "losses": {
            name: options | ({"warmup_steps": warmup_steps[name]} if name in warmup_steps else {})
            for name, options in document["objectives"].items()
        },
    }

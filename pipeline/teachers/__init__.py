"""Teachers by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cache_schema.plugins import resolve

if TYPE_CHECKING:
    from pipeline.teachers.protocol import TeacherPreset

TEACHERS = {
    "orion-7b": "pipeline.teachers.orion.presets:ORION_7B",
    "orion-tiny": "pipeline.teachers.orion.presets:ORION_TINY",
}
"""Preset name -> where it is defined."""


def teacher_preset(name: str) -> TeacherPreset:
    """Return a preset by name, or one of the user's own by ``package.module:NAME``."""
    return resolve(TEACHERS, name, kind="teacher")

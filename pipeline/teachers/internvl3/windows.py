"""Which layers of a teacher each layer of a student learns from.

Source: spec Drive-KD 5, reasoning.
"""

from __future__ import annotations

from typing import NamedTuple

from cache_schema.errors import RequestError


class Group(NamedTuple):
    """Layers of the teacher, from ``first`` to ``last``, whose mean one layer of the student learns."""

    student: int
    first: int
    last: int


def groups(student_layers: int, teacher_layers: int, start: int = 0, end: int = -2) -> tuple[Group, ...]:
    """Return a group of the teacher's layers for every layer of the student in a range.

    Where the teacher is deeper, the groups are windows of equal length that slide from its first layer in
    the range to the last one.

    Args:
        student_layers: Layers of the student.
        teacher_layers: Layers of the teacher.
        start: First layer of either that takes part.
        end: Last one. Negative numbers count from the end, -1 is the last layer.

    Raises:
        RequestError: No layer of either lies in the range.
    """
    students = _range(student_layers, start, end, "student")
    teachers = _range(teacher_layers, start, end, "teacher")
    length = max(1, len(teachers) - len(students) + 1)
    firsts = (teachers[min(place, len(teachers) - length)] for place in range(len(students)))
    return tuple(
        Group(student, first, first + length - 1) for student, first in zip(students, firsts, strict=True)
    )


def _range(layers: int, start: int, end: int, whose: str) -> range:
    first, last = (place + layers if place < 0 else place for place in (start, end))
    if not 0 <= first <= last < layers:
        raise RequestError(
            f"layers {start} to {end} of the {whose}'s {layers} layers are none",
            expected="a first layer that is not behind the last one, both among the layers of either model; "
            "negative numbers count from the end",
            repair="choose other start and end, or another number of student layers",
        )
    return range(first, last + 1)

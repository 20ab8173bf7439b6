"""Configurations by name, and changes to them as ``--set`` gives them."""

from __future__ import annotations

import difflib
import json
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from cache_schema.errors import RequestError
from cache_schema.plugins import resolve
from student.runs.config import RunConfig, TrainingConfig
from student.systems import PRESETS

if TYPE_CHECKING:
    from collections.abc import Mapping

OFF, ON = "off", "on"
"""Values that remove a term of the loss, and that add one with its defaults."""


def preset(name: str, changes: Mapping[str, Any] | None = None) -> RunConfig:
    """Return a configuration by name, complete with all defaults of its system.

    The name is one of ``student.systems.PRESETS``, or your own as ``package.module:NAME``; changes are as
    ``changed`` takes them.

    Raises:
        RequestError: There is none of that name, what the name stands for is no configuration, or a change
            does not fit.
    """
    config = resolve(PRESETS, name, kind="preset")
    if not isinstance(config, RunConfig):
        raise RequestError(
            f"the preset {name!r} is a {type(config).__name__}",
            expected="a RunConfig of student.runs.config",
            repair="correct the name, or what it stands for",
        )
    config = changed(config, changes or {})
    return config.completed(config.make_system())


def changed(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """Return a configuration with some values, by their field, changed.

    A field is named by its place: ``training.epochs``, ``student.layers``, ``losses.mimic.weight``. Fields of
    ``training`` and ``student`` may be named alone, such as ``epochs``, if only one of the two has it.
    ``losses.NAME=off`` removes a term of the loss; ``losses.NAME=on``, or any option of a term that is not
    there yet, adds it. Lists, objects and ``null`` may be given as JSON text.

    Raises:
        RequestError: There is no such field, or the value does not fit.
    """
    document = config.model_dump()
    for name, value in changes.items():
        part, *path = _path(name, config)
        _put(document[part], path, _parsed(value), remove=part == "losses" and len(path) == 1)
    try:
        return RunConfig.model_validate(document)
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(map(str, fault["loc"]))
        raise RequestError(
            f"the configuration cannot be changed so: {field}: {fault['msg']}",
            expected="a value that fits the field",
            repair="correct the change, or leave it out",
        ) from error


def described(name: str, changes: Mapping[str, Any]) -> str:
    """Return in a few words what a run's configuration is: a preset, and what was changed of it."""
    return ", ".join((name, *(f"{field} {value}" for field, value in changes.items())))


def _path(name: str, config: RunConfig) -> list[str]:
    """Split the name of a field into the part of the configuration, and its place in that part."""
    part, dot, rest = name.partition(".")
    if part == "losses" and dot:
        # A dotted string of the user's own holds dots before its colon.
        module, colon, end = rest.rpartition(":")
        loss, dot, field = end.partition(".")
        return [part, module + colon + loss, *(field.split(".") if dot else [])]
    if part in ("training", "student") and dot:
        return name.split(".")
    student = type(config.make_system().student)
    fields = {"training": TrainingConfig.model_fields, "student": student.model_fields}
    having = [part for part, names in fields.items() if name in names]
    if len(having) == 1:
        return [having[0], name]
    known = [field for names in fields.values() for field in names]
    nearest = difflib.get_close_matches(name, known, n=1)
    meant = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise RequestError(
        f"the field {name!r} is in {' and in '.join(having)}"
        if having
        else f"the configuration has no field {name!r}{meant}",
        expected=f"training.FIELD, student.FIELD, losses.NAME.FIELD, or one of {', '.join(known)}",
        repair="correct the name of the field",
    )


def _put(document: dict[str, Any], path: list[str], value: Any, *, remove: bool) -> None:
    """Put a value to its place; a term of the loss as a whole is removed or added."""
    *above, last = path
    for name in above:
        document = document.setdefault(name, {})
    if not remove:
        document[last] = value
    elif value == OFF:
        document.pop(last, None)
    elif value == ON or isinstance(value, dict):
        document[last] = value if isinstance(value, dict) else document.get(last, {})
    else:
        raise RequestError(
            f"a term of the loss cannot be {value!r}",
            expected=f"{OFF}, {ON}, or its options as a JSON object",
            repair=f"write losses.{last}={OFF}, or losses.{last}.weight=1",
        )


def _parsed(value: Any) -> Any:
    """Read JSON lists, objects and null; other text is read by the field's own type."""
    if isinstance(value, str) and (value == "null" or value.startswith(("[", "{"))):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value

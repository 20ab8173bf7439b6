"""Options of teachers, as users set them: texts for the fields of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from cache_schema.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

Options = TypeVar("Options", bound=BaseModel)


def changed(chosen: Options, options: Mapping[str, str], teacher: str) -> Options:
    """Return a teacher's options with some of them changed.

    Args:
        chosen: All of its options.
        options: Field -> value, as the user wrote it.
        teacher: Its name, for the message.

    Raises:
        RequestError: There is no such option, or it cannot have that value.
    """
    fields = type(chosen).model_fields
    if unknown := sorted(options.keys() - fields.keys()):
        raise RequestError(
            f"the teacher {teacher} has no option {', '.join(map(repr, unknown))}",
            expected=f"some of {', '.join(fields)}",
            repair="correct the name before the equals sign of --set",
        )
    try:
        return type(chosen).model_validate({**chosen.model_dump(), **options})
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, fault['loc'])) or 'together'}: {fault['msg']}" for fault in error.errors()
        )
        raise RequestError(
            f"the teacher {teacher} cannot be set so: {faults}",
            expected="values like " + ", ".join(f"{key}={getattr(chosen, key)}" for key in options),
            repair="correct the value behind the equals sign of --set",
        ) from error

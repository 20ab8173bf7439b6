"""What a student is trained for: one file an objective, a table of names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from cache_schema.errors import RequestError
from cache_schema.plugins import resolve

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from student.orion_lite.model import Prediction


class Objective(Protocol):
    """A term of the loss."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Features of the dataset that it reads, checked before the first batch."""
        ...

    def __call__(self, predicted: Prediction, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted term, a scalar, for B frames."""
        ...


OBJECTIVES = {
    "mimic": "student.orion_lite.losses.mimic:Mimic",
    "regression": "student.orion_lite.losses.regression:Regression",
    "boundary": "student.orion_lite.losses.boundary:Boundary",
    "collision": "student.orion_lite.losses.collision:Collision",
    "latent": "student.orion_lite.losses.latent:Latent",
}
"""Name -> class; its options are the class's fields."""


def build_objectives(chosen: Mapping[str, Mapping[str, Any]]) -> dict[str, Objective]:
    """Build objectives by name.

    Args:
        chosen: Name in ``OBJECTIVES``, or your own ``package.module:Class``, -> options.

    Raises:
        RequestError: A name is unknown, or an option is not one of that objective's.
    """
    objectives = {}
    for name, options in chosen.items():
        kind = resolve(OBJECTIVES, name, kind="objective")
        try:
            objectives[name] = kind(**options)
        except (TypeError, ValueError) as error:
            raise RequestError(
                f"the objective {name!r} does not take these options: {error}",
                expected=f"fields of {kind.__module__}:{kind.__qualname__}",
                repair="correct the objective's options",
            ) from error
    return objectives

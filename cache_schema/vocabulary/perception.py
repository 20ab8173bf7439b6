"""The seam between what computes features of observations and the student that plans from them.

Dimension letters: B slots (drives that advance together).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cache_schema.format.features import FeatureSpec
    from cache_schema.vocabulary.observation import Observation


class Perception(Protocol):
    """What computes, of an observation, the features that a driving student has learned to read.

    It runs as a teacher does: threads prepare inputs, and one thread begins, collates and steps. Its values
    have the bits that extraction stores.
    """

    @property
    def identity(self) -> Mapping[str, str]:
        """What it is, and how exactly it computes: for people, and for the records of a drive."""
        ...

    @property
    def cameras(self) -> tuple[str, ...]:
        """Cameras whose images an observation must have."""
        ...

    @property
    def features(self) -> tuple[FeatureSpec, ...]:
        """What it computes of every observation."""
        ...

    def prepare(self, observation: Observation) -> Any:
        """Turn an observation into inputs, on the CPU. Called by several threads at once.

        Raises:
            ClipError: An image is not a whole JPEG of 1600x900.
            RequestError: A camera is missing.
        """
        ...

    def collate(self, inputs: Sequence[Any]) -> Any:
        """Stack the inputs of B slots to a batch; None for an idle slot."""
        ...

    def begin(self, slots: int) -> Any:
        """Return the state before the first step of ``slots`` slots."""
        ...

    def step(self, batch: Any, state: Any) -> tuple[Mapping[str, Any], Any]:
        """Return a tensor (B, *shape) for every feature, in the type it is stored in, and the new state.

        A slot's memory is cleared when the clip of its observations changes. Rows of idle slots mean nothing,
        and their memories stay: a drive may wait while others go on.
        """
        ...

"""The seam between the server and what drives.

Dimension letters: P slots.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cache_schema.vocabulary.driving import SPEED, TRAJECTORY_STEPS
from student.closed_loop.controller import STEP_S

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cache_schema.vocabulary.observation import Observation

CONSTANT_VELOCITY = "constant-velocity"
"""Name of the smallest policy, in the place of a run."""
TEACHER = "teacher"
"""Name of a dataset's own teacher, in the place of a run."""


class Policy(Protocol):
    """Plans from observations, for several drives at once. Every drive has a slot of its own."""

    @property
    def identity(self) -> Mapping[str, str]:
        """Names and digests of what drives, for agents and logs."""
        ...

    @property
    def slots(self) -> int:
        """P, how many drives there may be at once."""
        ...

    @property
    def seconds(self) -> Mapping[str, float]:
        """What the last step took, by its parts; empty where that is not known."""
        ...

    def prepare(self, observation: Observation) -> Any:
        """Return what ``step`` takes of an observation. Called in several threads at once."""
        ...

    def begin(self) -> Any:
        """Return the state of all slots before the first drive."""
        ...

    def step(self, inputs: Sequence[Any | None], state: Any) -> tuple[np.ndarray, Any]:
        """Plan once for every slot. Called in one thread, always the same.

        Args:
            inputs: P prepared observations; None for an idle slot. Where the clip of a slot's observation is
                another than before, the slot's memory is cleared.
            state: Of all slots.

        Returns:
            Positions (P, 6, 2) in metres, LiDAR frame (x right, y forward), 0.5 s apart, of which those of
            idle slots mean nothing; and the state after it. A drive's numbers do not depend on other slots.
        """
        ...


class ConstantVelocity:
    """Go on straight ahead at the present speed: the smallest policy.

    Args:
        slots: How many drives there may be at once.
    """

    def __init__(self, slots: int = 1) -> None:
        self.slots = slots
        self.identity = {"student": "constant velocity"}
        self.seconds: dict[str, float] = {}

    def prepare(self, observation: Observation) -> float:
        """Return the speed."""
        return float(observation.can_bus[SPEED])

    def begin(self) -> None:
        """Return no state."""

    def step(self, inputs: Sequence[float | None], state: None) -> tuple[np.ndarray, None]:
        """Plan; see ``Policy``."""
        speeds = np.array([speed or 0.0 for speed in inputs])
        plans = np.zeros((len(inputs), TRAJECTORY_STEPS, 2))
        plans[..., 1] = speeds[:, None] * STEP_S * np.arange(1, TRAJECTORY_STEPS + 1)
        return plans, state

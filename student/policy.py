"""The seam between a driving student and what lets it drive: an open-loop evaluation, or a policy server.

Dimension letters: B frame of a batch, T step (of 0.5 s), D width of a feature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

from cache_schema.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from student.loading.batches import Batch
    from student.system import System


class PolicyOutput(NamedTuple):
    """What a policy returns for B frames."""

    positions: Tensor
    """(B, T, 2) planned positions in metres, LiDAR frame (x right, y forward)."""
    imitated: Mapping[str, tuple[Tensor, Tensor]] = {}
    """Feature -> (B, D) as the policy computed it, and as the teacher did, where a batch tells that."""


Policy = Callable[["Batch"], PolicyOutput]
"""Plans from what was known at every frame of a batch, and from nothing else."""


class DrivingPolicy(NamedTuple):
    """How a student drives."""

    features: tuple[str, ...]
    """What it reads of a frame. None depends on the future."""
    plan: Policy
    """Of a batch of these features; others tell it what it imitates."""


class DrivingSystem(Protocol):
    """A system whose students drive."""

    def policy(self, model: nn.Module) -> DrivingPolicy:
        """Return how a trained network drives: in evaluation mode, wherever it is."""
        ...


def policy_of(system: System | DrivingSystem, model: nn.Module) -> DrivingPolicy:
    """Return how a system's student drives.

    Raises:
        RequestError: It does not drive.
    """
    if not hasattr(system, "policy"):
        raise RequestError(
            f"a student of {type(system).__name__} does not drive",
            expected="a system with a method 'policy', such as orion-lite or latentvla",
            repair="choose the run of a driving student",
        )
    return cast("DrivingSystem", system).policy(model)

"""Looking at what a step gave without making the device wait for the look.

Losses and the gradient's norm are copied to the host while the following steps are under way, and read a step
or two later. No weights are kept before they have been read.

Dimension letters: B frame of a batch, K term of the loss.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import torch
from accelerate.utils import gather_object

from cache_schema.errors import TeachonceError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from accelerate import Accelerator
    from torch import Tensor

    from student.orion_lite.model import Prediction

LAG = 2
"""Steps that are under way before one is looked at."""
SKIPPED_STEPS = 25
"""Steps in a row whose gradient may overflow in fp16: halving its scale as often ends every overflow."""


class DivergenceError(TeachonceError):
    """The loss or its gradient is no longer finite."""


class Told(NamedTuple):
    """What a step gave."""

    epoch: int
    step: int
    frames: int
    """Over all processes."""
    terms: dict[str, float]
    """Over all processes."""
    gradient: float
    """Global norm before it was clipped."""


class _UnderWay(NamedTuple):
    epoch: int
    step: int
    frames: int
    names: list[str]
    """Of this process's frames."""
    numbers: Tensor
    """(K + 1) on the host, once ``copied``."""
    finite: Tensor
    """(B) on the device."""
    copied: torch.cuda.Event | None


class Watch:
    """Follows steps at a distance.

    Args:
        accelerator: The processes of the run.
        terms: Names of the terms of the loss.
    """

    def __init__(self, accelerator: Accelerator, terms: tuple[str, ...]) -> None:
        self.accelerator, self.terms = accelerator, terms
        self._under_way: deque[_UnderWay] = deque()
        self._skipped = 0

    def add(
        self,
        epoch: int,
        step: int,
        frames: int,
        *,
        names: list[str],
        share: float,
        terms: Mapping[str, Tensor],
        gradient: Tensor,
        predicted: Prediction,
    ) -> list[Told]:
        """Take note of a step; return those that can be looked at without waiting.

        Args:
            epoch: Where the step belongs.
            step: Its number.
            frames: Of the step, over all processes.
            names: This process's frames.
            share: Their part of all frames.
            terms: (), means over this process's frames.
            gradient: () global norm, the same on all processes.
            predicted: What was said of this process's frames.

        Raises:
            DivergenceError: A step was not finite.
        """
        with torch.no_grad():
            numbers = torch.stack([term.detach().double() for term in terms.values()]) * share  # (K)
            if self.accelerator.num_processes > 1:
                numbers = self.accelerator.reduce(numbers, "sum")
            numbers = torch.cat([numbers, gradient.detach().double()[None]])  # (K + 1)
            # Whose frame it was is asked only if something is wrong.
            finite = predicted.planning_token.isfinite().all(1) & predicted.offsets.isfinite().flatten(1).all(
                1
            )
        copied = None
        if numbers.device.type == "cuda":
            numbers = torch.empty_like(numbers, device="cpu", pin_memory=True).copy_(
                numbers, non_blocking=True
            )
            copied = torch.cuda.Event()
            copied.record()
        self._under_way.append(_UnderWay(epoch, step, frames, names, numbers, finite, copied))
        return [self._look() for _ in range(len(self._under_way) - LAG)]

    def flush(self) -> list[Told]:
        """Return every step that has not been looked at, waiting for it.

        Raises:
            DivergenceError: A step was not finite.
        """
        return [self._look() for _ in range(len(self._under_way))]

    def _look(self) -> Told:
        seen = self._under_way.popleft()
        if seen.copied is not None:
            seen.copied.synchronize()
        *values, gradient = seen.numbers.tolist()
        terms = dict(zip(self.terms, values, strict=True))
        # In fp16 a gradient that overflows is the scaler's business, which leaves the step out.
        self._skipped = 0 if math.isfinite(gradient) else self._skipped + 1
        allowed = SKIPPED_STEPS if self.accelerator.mixed_precision == "fp16" else 0
        if self._skipped > allowed or not all(map(math.isfinite, values)):
            raise self._divergence(seen, terms)
        return Told(seen.epoch, seen.step, seen.frames, terms, gradient)

    def _divergence(self, seen: _UnderWay, terms: Mapping[str, float]) -> DivergenceError:
        """Name the terms and, over all processes, the frames: all processes come here at the same step."""
        blamed = [name for name, fine in zip(seen.names, seen.finite.tolist(), strict=True) if not fine]
        if self.accelerator.num_processes > 1:
            names, blamed = gather_object(seen.names), gather_object(blamed)
        else:
            names = seen.names
        blamed = blamed or names
        broken = [name for name, value in terms.items() if not math.isfinite(value) and name != "total"]
        return DivergenceError(
            f"epoch {seen.epoch}, step {seen.step}: {', '.join(broken) or 'the gradient'} is not finite "
            f"for {len(blamed)} of {len(names)} frames: {', '.join(blamed[:8])}"
            + (", ..." if len(blamed) > 8 else ""),
            expected="finite losses and gradients",
            repair="verify the dataset, or train in another folder with a preset whose learning rate is "
            "lower; the last checkpoint is from before",
        )

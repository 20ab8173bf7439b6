"""Reading a step's losses without making the device wait.

Losses and the gradient's norm are copied to the host while the following steps run, and read a step or two
later. No checkpoint is written before every step up to it has been read.

Dimension letters: B sample of a batch, K term of the loss.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import torch
from accelerate.utils import gather_object

from cache_schema.errors import TeachonceError
from student.device import fetched

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from accelerate import Accelerator
    from torch import Tensor

LAG = 2
"""Steps that may run before the oldest of them is read."""
SKIPPED_STEPS = 25
"""Steps in a row whose gradient may overflow in fp16: halving its scale as often ends every overflow."""


class DivergenceError(TeachonceError):
    """The loss or its gradient is no longer finite."""


class StepMetrics(NamedTuple):
    """The numbers of a step."""

    epoch: int
    step: int
    samples: int
    """Over all processes."""
    losses: dict[str, float]
    """Over all processes."""
    gradient: float
    """Global norm before it was clipped."""


def finite_samples(outputs: Sequence[Tensor]) -> Tensor:
    """Return for outputs (B, ...) of a network which samples have finite ones only, (B) bool."""
    with torch.no_grad():
        return torch.stack([values.isfinite().reshape(len(values), -1).all(1) for values in outputs]).all(0)


class EpochSums:
    """Sums of the terms of the loss over the samples of an epoch."""

    def __init__(self, samples: int = 0, losses: dict[str, float] | None = None) -> None:
        self.samples = samples
        self.losses: dict[str, float] = losses or {}

    def add(self, losses: Mapping[str, float], samples: int) -> None:
        """Add the means of a term over some samples."""
        self.samples += samples
        for name, value in losses.items():
            self.losses[name] = self.losses.get(name, 0.0) + value * samples

    def means(self) -> dict[str, float]:
        """Return the mean of every term."""
        return {name: value / self.samples for name, value in self.losses.items()}


class _Pending(NamedTuple):
    epoch: int
    step: int
    samples: int
    names: list[str]
    """Of this process's samples."""
    numbers: Tensor
    """(K + 1) on the host, once ``copied``."""
    finite: Tensor
    """(B) on the device, read only if something is wrong."""
    copied: torch.cuda.Event | None


class DeferredMetrics:
    """Reads the numbers of steps some steps later."""

    def __init__(self, accelerator: Accelerator, losses: tuple[str, ...]) -> None:
        self.accelerator, self.losses = accelerator, losses
        self._pending: deque[_Pending] = deque()
        self._skipped = 0

    def add(
        self,
        epoch: int,
        step: int,
        samples: int,
        *,
        names: list[str],
        share: float,
        losses: Mapping[str, Tensor],
        gradient: Tensor,
        finite: Tensor,
    ) -> list[StepMetrics]:
        """Take note of a step; return the steps that can be read without waiting.

        Args:
            epoch: Where the step belongs.
            step: Its number.
            samples: Of the step, over all processes.
            names: This process's samples.
            share: Their part of all samples.
            losses: (), means over this process's samples.
            gradient: () global norm, the same on all processes.
            finite: (B) whether the network's outputs for a sample are finite.

        Raises:
            DivergenceError: A step was not finite.
        """
        with torch.no_grad():
            numbers = torch.stack([loss.detach().double() for loss in losses.values()]) * share  # (K)
            if self.accelerator.num_processes > 1:
                numbers = self.accelerator.reduce(numbers, "sum")
            numbers = torch.cat([numbers, gradient.detach().double()[None]])  # (K + 1)
        numbers, copied = fetched(numbers)
        self._pending.append(_Pending(epoch, step, samples, names, numbers, finite, copied))
        return [self._read() for _ in range(len(self._pending) - LAG)]

    def flush(self) -> list[StepMetrics]:
        """Return every step that has not been read, waiting for it.

        Raises:
            DivergenceError: A step was not finite.
        """
        return [self._read() for _ in range(len(self._pending))]

    def _read(self) -> StepMetrics:
        pending = self._pending.popleft()
        if pending.copied is not None:
            pending.copied.synchronize()
        *values, gradient = pending.numbers.tolist()
        losses = dict(zip(self.losses, values, strict=True))
        # In fp16 the gradient scaler leaves out the step of a gradient that overflows.
        self._skipped = 0 if math.isfinite(gradient) else self._skipped + 1
        allowed = SKIPPED_STEPS if self.accelerator.mixed_precision == "fp16" else 0
        if self._skipped > allowed or not all(map(math.isfinite, values)):
            raise self._divergence(pending, losses)
        return StepMetrics(pending.epoch, pending.step, pending.samples, losses, gradient)

    def _divergence(self, pending: _Pending, losses: Mapping[str, float]) -> DivergenceError:
        """Name the terms and, over all processes, the samples: all processes come here at the same step."""
        finite = zip(pending.names, pending.finite.tolist(), strict=True)
        blamed = [name for name, is_finite in finite if not is_finite]
        if self.accelerator.num_processes > 1:
            names, blamed = gather_object(pending.names), gather_object(blamed)
        else:
            names = pending.names
        blamed = blamed or names
        broken = [name for name, value in losses.items() if not math.isfinite(value) and name != "total"]
        return DivergenceError(
            f"epoch {pending.epoch}, step {pending.step}: {', '.join(broken) or 'the gradient'} is not "
            f"finite for {len(blamed)} of {len(names)} samples: {', '.join(blamed[:8])}"
            + (", ..." if len(blamed) > 8 else ""),
            expected="finite losses and gradients",
            repair="verify the dataset, or train in another folder with a preset whose learning rate is "
            "lower; the last checkpoint is from before",
        )

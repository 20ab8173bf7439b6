"""The seam between training and what is trained: a system is one way to make a student.

The trainer knows no system, and no feature of a dataset. A system is one folder of this package and a row in
``student/systems.py``; yours is used by its dotted name.

Dimension letters: B sample of a batch, N sample of a split.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cache_schema.errors import RequestError
from cache_schema.plugins import resolve
from cache_schema.progress import SILENT, Progress
from student.flatten import flatten

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

    from student.loading.batches import Batch
    from student.loading.dataset import Dataset
    from student.step import StepContext, StepOutput

Options = TypeVar("Options", bound=BaseModel)
Loss = TypeVar("Loss", bound="LossConfig")
Export = Callable[["nn.Module", "Dataset", Path, str], str]
"""Writes a trained student: the network, the dataset that it reads, the file or folder to make, and a
description of the run as JSON, which goes into it. Returns a remark for the user, such as how exact it is."""


class LossConfig(BaseModel):
    """The options of one term of the loss. A system's terms add their own, and are called to compute them."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    required_features: ClassVar[tuple[str, ...]] = ()
    """Features of the dataset that the term reads."""

    weight: float = 1.0
    """Factor of the term."""
    warmup_steps: int = Field(0, ge=0)
    """Steps over which the term rises linearly to its weight."""

    def warmed_up(self, term: Tensor, step: int) -> Tensor:
        """Return a weighted term as far as it has risen at a step, counted from 0."""
        return term * self.warmth(step) if self.warmup_steps else term

    def warmth(self, step: int) -> float:
        """Return how much of its weight the term has at a step, counted from 0."""
        return min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0


class GradientRule(Protocol):
    """How the terms of a loss become one gradient."""

    @property
    def separate(self) -> bool:
        """Whether it differentiates terms one by one.

        Processes then exchange the gradient in ``end_step``; otherwise during its only backward pass.
        """
        ...

    def __call__(
        self,
        losses: Mapping[str, Tensor],
        weights: Sequence[nn.Parameter],
        scale: Callable[[Tensor], Tensor],
        context: StepContext,
    ) -> None:
        """Add the gradient to ``weight.grad`` of every weight, which is None before the first addition.

        Args:
            losses: The weighted terms (), means over the samples of a micro-batch.
            weights: What is trained.
            scale: To be applied to every loss that is differentiated. It multiplies by the micro-batch's
                share of the step, and by the factor that keeps gradients within the range of fp16.
            context: The step, of which this is one micro-batch.
        """
        ...

    def end_step(
        self, weights: Sequence[nn.Parameter], reduce: Callable[[Tensor], Tensor], context: StepContext
    ) -> None:
        """End a step, before its gradient is clipped and the optimiser reads it.

        Called once a step, in all processes, after the last micro-batch. A separate rule exchanges its
        gradient here: ``student.training.gradients.average_gradients``.

        Args:
            weights: What is trained. Their gradients are scaled as ``scale`` scaled the losses.
            reduce: Returns the mean of a tensor over all processes, on its own device; for one process the
                tensor itself. All processes call it as many times, with tensors of the same shapes.
            context: The step, with all samples of this process.
        """
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Return what the rule remembers from step to step, for checkpoints; empty if nothing."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from such a state."""
        ...


class Evaluation(BaseModel):
    """What an evaluation found: the content of ``evaluation.json``.

    Systems add their numbers, and ``__rich__`` to show them. Of a kind of evaluation that they do not know,
    reports show every number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    """What was measured, such as ``open-loop``."""
    split: str
    epoch: int = 0
    """Epochs that the student had been trained; filled in by ``student.runs.evaluate``."""

    def numbers(self) -> dict[str, float | None]:
        """Return the numbers by which runs are compared, by their dotted names: here, all but the epoch.

        An ``Estimate``, a number with an interval, has the name of its field.
        """
        values = flatten(self.model_dump(exclude={"epoch"})).items()
        return {name.removesuffix(".value"): value for name, value in values if type(value) in (int, float)}

    def intervals(self) -> dict[str, tuple[float, float]]:
        """Return the 95% confidence intervals of some of these numbers, which are then shown beside them.

        Here, those of every ``Estimate``.
        """
        values = flatten(self.model_dump()).items()
        return {
            name.removesuffix(".interval"): (value[0], value[1])
            for name, value in values
            if name.endswith(".interval")
            and isinstance(value, Sequence)
            and [*map(type, value)] == [float] * 2
        }


class System(Protocol):
    """One way to make a student.

    Args:
        student: Sizes and options of the network, as a run's configuration has them.
        losses: Term of the loss -> its options.

    Raises:
        RequestError: An option is unknown, or its value does not fit.
    """

    def __init__(self, student: Mapping[str, Any], losses: Mapping[str, Mapping[str, Any]]) -> None: ...

    @property
    def student(self) -> BaseModel:
        """Sizes and options, typed and frozen."""
        ...

    @property
    def losses(self) -> Mapping[str, LossConfig]:
        """The terms of the loss by name."""
        ...

    @property
    def terms(self) -> nn.Module | None:
        """What a step computes of the network's outputs, to be compiled with it; None for nothing."""
        ...

    @property
    def gradients(self) -> GradientRule:
        """How they become one gradient."""
        ...

    @property
    def exports(self) -> Mapping[str, Export]:
        """Ending of a file, such as ``.onnx``, or "" for a folder -> how it is written."""
        ...

    def required_features(self) -> tuple[str, ...]:
        """Return the features of the dataset that training reads."""
        ...

    def build(self, dataset: Dataset) -> nn.Module:
        """Build the network for a dataset, with the weights that training starts from.

        Weights that no term of the loss reaches for the first two training samples are frozen.

        Raises:
            RequestError: The dataset lacks something.
            CheckpointError: Weights in the dataset do not fit.
        """
        ...

    def training_step(self, model: nn.Module, batch: Batch, context: StepContext) -> StepOutput:
        """Compute the terms of the loss for one batch.

        Args:
            model: The network, maybe wrapped to run in several processes: call it, once. Where the rule for
                gradients is separate, it is not wrapped.
            batch: (B, ...) for each of the required features.
            context: The step.

        Returns:
            All terms, always. One that does not exist for these samples is a zero without gradient.
        """
        ...

    def validation_step(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Compute the terms of the loss on held-out samples: deterministic, and without any warm-up."""
        ...

    def evaluate(
        self,
        model: nn.Module,
        dataset: Dataset,
        split: str,
        *,
        device: torch.device,
        progress: Progress = SILENT,
    ) -> tuple[Evaluation, dict[str, np.ndarray]]:
        """Measure a trained network on a split.

        Args:
            model: The network in evaluation mode, on the device.
            dataset: What it reads.
            split: "train", "val" or "all".
            device: Where batches go.
            progress: Counts samples.

        Returns:
            What was found, and arrays about every sample for ``evaluation.safetensors``.
        """
        ...


def parse_options(kind: type[Options], options: Mapping[str, Any], name: str) -> Options:
    """Return options as the type that a system gives them.

    Raises:
        RequestError: One is unknown, or its value does not fit; the message begins with ``name``.
    """
    try:
        return kind.model_validate(dict(options))
    except ValidationError as error:
        faults = "; ".join(
            ".".join((name, *map(str, fault["loc"]))) + f": {fault['msg']}" for fault in error.errors()
        )
        raise RequestError(
            faults,
            expected=f"fields of {kind.__module__}:{kind.__qualname__}: {', '.join(kind.model_fields)}",
            repair="correct the option, or leave it out",
        ) from error


def build_losses(
    table: Mapping[str, str], chosen: Mapping[str, Mapping[str, Any]], base: type[Loss]
) -> dict[str, Loss]:
    """Return the terms of a loss.

    Args:
        table: Name -> dotted string of a class of such terms.
        chosen: Name in the table, or your own ``package.module:Class``, -> its options.
        base: The class that all of them extend.

    Raises:
        RequestError: A name is unknown or no term of a loss, or an option is not one of that term's.
    """
    losses = {}
    for name, options in chosen.items():
        kind = resolve(table, name, kind="loss")
        if not (isinstance(kind, type) and issubclass(kind, base)):
            raise RequestError(
                f"{name!r} is no term of this loss",
                expected=f"one of {', '.join(table)}, or a subclass of {base.__module__}:{base.__qualname__}",
                repair="correct the name, or what it stands for",
            )
        losses[name] = parse_options(kind, options, f"losses.{name}")
    return losses

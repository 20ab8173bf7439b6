"""How Drive-KD's terms become one gradient: weighed, projected, exchanged by processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cache_schema.errors import RequestError
from student.drive_kd.agp import projected
from student.drive_kd.gradients import add_combined, products, reaches
from student.drive_kd.gradnorm import LARGEST_STATIC, SMALLEST_SQUARE, Reweighting
from student.drive_kd.losses import ANSWER_CE
from student.training.gradients import average_gradients, separate_gradients, total

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from torch import Tensor, nn

    from student.drive_kd.config import DriveKdConfig
    from student.drive_kd.losses import Loss
    from student.step import StepContext

    Order = Callable[[np.random.Generator, Sequence[str]], Sequence[str]]
    """From the terms that follow the answer to the same in a random order."""


def drawn(rng: np.random.Generator, followers: Sequence[str]) -> list[str]:
    """Draw the order of terms that are projected."""
    return [followers[number] for number in rng.permutation(len(followers))]


class DriveKdRule:
    """See ``student.system.GradientRule``.

    Args:
        student: How terms are weighed and combined.
        losses: The terms.
        order: Of stage 2 of the projection.

    Raises:
        RequestError: A static weight is too large to be changed.
    """

    separate = True

    def __init__(self, student: DriveKdConfig, losses: Mapping[str, Loss], order: Order = drawn) -> None:
        self.student, self.order = student, order
        self.static = {name: loss.weight for name, loss in losses.items()}
        self._reweighting: Reweighting | None = None
        if student.weighting == "gradnorm":
            _refuse_large(self.static)
            self._reweighting = Reweighting(
                self.static, learning_rate=student.weight_learning_rate, alpha=student.alpha
            )
        self._per_step = student.combination == "agp" and student.projection == "per-step"
        self._gathered: dict[str, list[Tensor | None]] = {}
        self._window: dict[str, Tensor] = {}

    @property
    def weights(self) -> dict[str, float]:
        """Weight of every term that is in use."""
        return self.static if self._reweighting is None else self._reweighting.weights()

    def __call__(
        self,
        losses: Mapping[str, Tensor],
        weights: Sequence[nn.Parameter],
        scale: Callable[[Tensor], Tensor],
        context: StepContext,
    ) -> None:
        """See ``GradientRule``.

        Raises:
            RequestError: The micro-batch has several samples, and each has to be known.
        """
        if self.student.combination == "sum" and self._reweighting is None:
            scale(total(losses)).backward()
            return
        self._refuse_several(context)
        found = {name: losses[name] for name in sorted(losses, key=lambda name: name != ANSWER_CE)}
        found = {name: loss for name, loss in found.items() if loss.requires_grad}
        gradients = list(separate_gradients(found, weights, scale).values())
        in_use = self.weights
        factors = [in_use[name] / self.static[name] for name in found]
        if self._per_step and self._reweighting is None:
            self._gather(list(found), gradients, factors)
            return
        by_weight = products(gradients, norms_only=self._per_step or self.student.combination == "sum")
        if self._reweighting is not None:
            squares = by_weight.sum(dim=0).diagonal()
            self._note(found, squares, scale(torch.ones_like(losses[ANSWER_CE])), context)
        if self._per_step:
            self._gather(list(found), gradients, factors)
        else:
            rng = context.rng(*context.positions.tolist())
            order = self._order(rng, list(found)) if self.student.combination == "agp" else None
            add_combined(weights, gradients, self._coefficients(by_weight, gradients, factors, order))

    def end_step(
        self, weights: Sequence[nn.Parameter], reduce: Callable[[Tensor], Tensor], context: StepContext
    ) -> None:
        """See ``GradientRule``."""
        if self._per_step:
            self._project_step(weights, reduce, context)
        else:
            average_gradients(weights, reduce)
        if self._reweighting is not None:
            self._reweigh(self._reweighting, reduce, context, weights[0].device)

    def state_dict(self) -> dict[str, Tensor]:
        """See ``GradientRule``."""
        return {} if self._reweighting is None else self._reweighting.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """See ``GradientRule``."""
        if self._reweighting is not None and state:
            self._reweighting.load_state_dict(state)

    def _order(self, rng: np.random.Generator, names: Sequence[str]) -> list[int]:
        """Return the numbers of the terms behind the answer in the order of stage 2."""
        return [names.index(name) for name in self.order(rng, names[1:])]

    def _coefficients(
        self,
        by_weight: Tensor,
        gradients: Sequence[Sequence[Tensor | None]],
        factors: Sequence[float],
        order: Sequence[int] | None,
    ) -> Tensor:
        """Return the combination of gradients that is added; without an order, their sum."""
        reached = reaches(gradients).to(by_weight.device)
        chosen = torch.tensor(factors, dtype=torch.float64, device=by_weight.device)
        if order is None:
            return reached * chosen
        stages = self.student.model_dump(include={"stage_1", "stage_2", "ce_once"})
        return projected(by_weight, reached, chosen, order, **stages)

    def _gather(
        self, names: Sequence[str], gradients: Sequence[Sequence[Tensor | None]], factors: Sequence[float]
    ) -> None:
        """Add a micro-batch's gradients to those of the step, term by term."""
        for name, term, factor in zip(names, gradients, factors, strict=True):
            held = self._gathered.setdefault(name, [None] * len(term))
            for place, gradient in enumerate(term):
                if gradient is not None:
                    before = held[place]
                    held[place] = gradient * factor if before is None else before.add_(gradient, alpha=factor)

    def _project_step(
        self, weights: Sequence[nn.Parameter], reduce: Callable[[Tensor], Tensor], context: StepContext
    ) -> None:
        """Project the mean gradients of a step, over all processes."""
        names = [ANSWER_CE, *(name for name in self.static if name != ANSWER_CE)]
        own = [self._gathered.get(name, [None] * len(weights)) for name in names]
        anywhere = reduce(reaches(own).double()).T > 0  # (K, W)
        means = [
            [
                reduce(torch.zeros_like(weight) if gradient is None else gradient) if needed else None
                for weight, gradient, needed in zip(weights, term, needs, strict=True)
            ]
            for term, needs in zip(own, anywhere.tolist(), strict=True)
        ]
        self._gathered.clear()
        present = [number for number in range(len(names)) if anywhere[number].any()]
        names, means = [names[number] for number in present], [means[number] for number in present]
        order = self._order(context.rng(), names)
        add_combined(weights, means, self._coefficients(products(means), means, [1.0] * len(names), order))

    def _note(
        self, losses: Mapping[str, Tensor], squares: Tensor, share: Tensor, context: StepContext
    ) -> None:
        """Add a sample's unweighted losses and norms of gradients to the window's."""
        counts = (share > 0).double()  # a sample that a process has borrowed has no share of the step
        self._add("samples", counts)
        for (name, loss), square in zip(losses.items(), squares, strict=True):
            factor = context.factors[name]
            norm = (square / factor**2 + SMALLEST_SQUARE).sqrt()
            self._add(f"loss.{name}", loss.detach().double() / factor * counts)
            self._add(f"norm.{name}", norm * counts)
            self._add(f"count.{name}", counts)

    def _add(self, name: str, value: Tensor) -> None:
        self._window[name] = self._window.get(name, torch.zeros_like(value)) + value

    def _reweigh(
        self,
        reweighting: Reweighting,
        reduce: Callable[[Tensor], Tensor],
        context: StepContext,
        device: torch.device,
    ) -> None:
        """Move the weights by the means of a step, over all processes."""
        keys = ["samples", *(f"{kind}.{name}" for kind in ("loss", "norm", "count") for name in self.static)]
        nothing = torch.zeros((), dtype=torch.float64, device=device)
        window = reduce(torch.stack([self._window.get(key, nothing) for key in keys])).cpu()
        self._window.clear()
        means = dict(zip(keys, window, strict=True))
        occurred = [name for name in self.static if means[f"count.{name}"] > 0]
        # Means over processes, so that losses are divided by the mean of their samples. Gradients are scaled
        # so that their mean over processes is that of the step: of norms, it is the sum over all samples.
        losses = {name: (means[f"loss.{name}"] / means["samples"]).float() for name in occurred}
        norms = {name: (means[f"norm.{name}"] / context.samples).float() for name in occurred}
        reweighting.update(losses, norms)

    def _refuse_several(self, context: StepContext) -> None:
        if len(context.positions) > 1 and not (self._per_step and self._reweighting is None):
            raise RequestError(
                f"a micro-batch has {len(context.positions)} samples, whose gradients cannot be told apart",
                expected="one sample, to project or weigh its gradients"
                " (student.projection per-sample, student.weighting gradnorm)",
                repair="use --set micro_batch_size=1, or --set student.projection=per-step with "
                "--set student.weighting=static",
            )


def _refuse_large(static: Mapping[str, float]) -> None:
    large = {name: weight for name, weight in static.items() if weight > LARGEST_STATIC}
    if large:
        raise RequestError(
            f"weights above {LARGEST_STATIC:g} cannot be changed by gradnorm: "
            + ", ".join(f"losses.{name}.weight {weight:g}" for name, weight in large.items()),
            expected="weights whose exponential float32 can hold",
            repair="lower them in proportion, or use --set student.weighting=static",
        )

"""A system on other inputs and outputs than Orion-Lite's: what is a line like that begins with these letters?

It guesses the line's length and its vowels. Losses, gradient rule, evaluation and export are its own.

Dimension letters: B line of a batch, N line of a split, L letter, V vowel.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from rich.table import Table
from torch import Tensor, nn

from cache_schema.progress import SILENT
from student.loading.batches import LatentSamples
from student.runs.config import RunConfig, TrainingConfig
from student.step import StepOutput
from student.system import Evaluation, LossConfig, build_losses, parse_options
from student.training.gradients import average_gradients, separate_gradients

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from student.step import StepContext

LETTERS, VOWELS = 8, "aeiou"
LOSSES = {"length": "tests.toy.system:Length", "vowels": "tests.toy.system:Vowels"}


class ToyConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = 6
    noise: float = 0.1
    """Standard deviation of what is added to the letters in training."""
    projection: bool = True
    """Whether gradients that contradict each other are projected, or just added."""


class Length(LossConfig):
    required_features: ClassVar[tuple[str, ...]] = ("length",)

    def __call__(self, guess: Tensor, batch) -> Tensor:
        return self.weight * F.mse_loss(guess[:, 0], batch["length"])


class Vowels(LossConfig):
    required_features: ClassVar[tuple[str, ...]] = ("vowels",)

    weight: float = 3.0

    def __call__(self, guess: Tensor, batch) -> Tensor:
        return self.weight * F.mse_loss(guess[:, 1:], batch["vowels"])


class Projection:
    """Of each term's gradient, leaves out what points against another term's; then adds them up."""

    separate = True

    def __init__(self, *, active: bool) -> None:
        self.active, self.conflicts = active, torch.zeros((), dtype=torch.int64)

    def __call__(
        self,
        losses: Mapping[str, Tensor],
        weights: Sequence[nn.Parameter],
        scale: Callable[[Tensor], Tensor],
        context: StepContext,
    ) -> None:
        found = separate_gradients(losses, weights, scale)
        flat = {
            name: torch.cat([_dense(g, w) for g, w in zip(of, weights, strict=True)])
            for name, of in found.items()
        }
        whole = torch.stack([self._projected(name, flat, context) for name in flat]).sum(0)
        for weight, gradient in zip(
            weights, whole.split([weight.numel() for weight in weights]), strict=True
        ):
            gradient = gradient.view_as(weight)
            weight.grad = gradient.clone() if weight.grad is None else weight.grad + gradient

    def _projected(self, name: str, gradients: dict[str, Tensor], context: StepContext) -> Tensor:
        own = gradients[name]
        others = [other for other in gradients if other != name]
        for number in context.rng().permutation(len(others)) if self.active else ():
            other = gradients[others[number]]
            product = own @ other
            self.conflicts += int(product < 0)
            own = own - product.clamp(max=0) / (other @ other) * other
        return own

    def end_step(
        self, weights: Sequence[nn.Parameter], reduce: Callable[[Tensor], Tensor], context: StepContext
    ) -> None:
        average_gradients(weights, reduce)

    def state_dict(self) -> dict[str, Tensor]:
        return {"conflicts": self.conflicts}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.conflicts = state["conflicts"].clone()


class ToyEvaluation(Evaluation):
    kind: Literal["guesses"] = "guesses"
    length_error: float
    vowel_error: dict[str, float]

    def __rich__(self) -> Table:
        table = Table("guess", "mean absolute error", title=f"{self.split}, after {self.epoch} epochs")
        for name, value in {"length": self.length_error, **self.vowel_error}.items():
            table.add_row(name, f"{value:.3f}")
        return table


class Toy:
    def __init__(self, student, losses) -> None:
        self.student = parse_options(ToyConfig, student, "student")
        self.losses = build_losses(LOSSES, losses, LossConfig)
        self.terms = None
        self.gradients = Projection(active=self.student.projection)
        self.exports = {".json": export_json, "": export_folder}

    def required_features(self) -> tuple[str, ...]:
        return ("letters", *(name for loss in self.losses.values() for name in loss.required_features))

    def build(self, dataset) -> nn.Module:
        assert dataset.feature("letters").shape == (LETTERS,)
        width = self.student.width
        return nn.Sequential(nn.Linear(LETTERS, width), nn.Tanh(), nn.Linear(width, 1 + len(VOWELS)))

    def training_step(self, model, batch, context) -> StepOutput:
        noise = context.randn(LETTERS)
        guess = model(batch["letters"] + self.student.noise * noise)
        losses = {
            name: loss.warmed_up(loss(guess, batch), context.step) for name, loss in self.losses.items()
        }
        return StepOutput(losses, (guess, batch["length"]))

    def validation_step(self, model, batch) -> StepOutput:
        guess = model(batch["letters"])
        return StepOutput({name: loss(guess, batch) for name, loss in self.losses.items()}, (guess,))

    @torch.no_grad()
    def evaluate(self, model, dataset, split, *, device, progress=SILENT):
        lines = LatentSamples(dataset, split, ("letters", "length", "vowels"), device=device)
        batch = lines.read(np.arange(len(lines)))
        guess = model(batch["letters"])
        error = (guess - torch.cat([batch["length"][:, None], batch["vowels"]], dim=1)).abs().mean(0).tolist()
        found = ToyEvaluation(
            split=split, length_error=error[0], vowel_error=dict(zip(VOWELS, error[1:], strict=True))
        )
        progress.advance(len(lines))
        return found, {"guess": guess.numpy()}


def export_json(model: nn.Module, dataset, file: Path, description: str) -> str:
    weights = {name: value.tolist() for name, value in model.state_dict().items()}
    file.write_text(json.dumps({"run": json.loads(description), "weights": weights}))
    return f"{len(weights)} tensors, {len(dataset.clips)} clips"


def export_folder(model: nn.Module, dataset, folder: Path, description: str) -> str:
    folder.mkdir()
    return export_json(model, dataset, folder / "toy.json", description)


def _dense(gradient: Tensor | None, weight: Tensor) -> Tensor:
    return torch.zeros_like(weight).flatten() if gradient is None else gradient.flatten()


TOY = RunConfig(
    system="tests.toy.system:Toy",
    training=TrainingConfig(epochs=2, batch_size=4, learning_rate=1e-2, log_every=1),
    losses={"length": {}, "vowels": {"warmup_steps": 3}},
)

"""Drive-KD as a system: a small InternVL3 learns answers, and the attention of a big one.

Two datasets are joined: one by the teacher, with its attention, and one by the student's own checkpoint, with
the images as it sees them and the weights that it starts from. One sample is one forward pass.

Dimension letters: B sample of a batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch

from cache_schema.errors import RequestError
from cache_schema.progress import SILENT, Progress
from cache_schema.vocabulary.attention import ANSWER_START, CAPABILITIES, CAPABILITY, IMAGE_RUNS, TOKEN_IDS
from student.drive_kd.config import DriveKdConfig
from student.drive_kd.datasets import build_student
from student.drive_kd.losses import ANSWER_CE, LOSSES, Loss
from student.drive_kd.rule import DriveKdRule
from student.drive_kd.sample import image_feature, samples_of
from student.step import StepContext, StepOutput
from student.system import build_losses, parse_options

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import numpy as np
    from torch import Tensor, nn

    from student.drive_kd.model import DriveKd
    from student.drive_kd.sample import Sample
    from student.loading.batches import Batch
    from student.loading.dataset import Dataset
    from student.system import Evaluation, Export


class DriveKdSystem:
    """See ``student.system.System``."""

    def __init__(self, student: Mapping[str, Any], losses: Mapping[str, Mapping[str, Any]]) -> None:
        self.student = parse_options(DriveKdConfig, student, "student")
        self.losses = build_losses(LOSSES, losses, Loss)
        if ANSWER_CE not in self.losses:
            raise RequestError(
                f"the losses {', '.join(self.losses)} do not have {ANSWER_CE}",
                expected=f"{ANSWER_CE}, whose gradient leads, and which reaches every weight",
                repair=f"use --set losses.{ANSWER_CE}=on",
            )
        self.terms = None
        self.gradients = DriveKdRule(self.student, self.losses)

    @property
    def exports(self) -> Mapping[str, Export]:
        """See ``System``."""
        return {"": _export_folder}

    def required_features(self) -> tuple[str, ...]:
        """See ``System``."""
        needed = {TOKEN_IDS, ANSWER_START, IMAGE_RUNS, CAPABILITY, image_feature(self.student.trainable)}
        for capability in CAPABILITIES:
            for name in self._shares(capability):
                needed.update(self.losses[name].required_features)
        return tuple(sorted(needed))

    def build(self, dataset: Dataset) -> DriveKd:
        """Build the student with the weights that its dataset holds."""
        return build_student(dataset, self.student.trainable, self.required_features())

    def training_step(self, model: nn.Module, batch: Batch, context: StepContext) -> StepOutput:
        """See ``System``; of one sample, the context is told every term's factor.

        Raises:
            RequestError: The network was compiled.
        """
        _refuse_compiled(model)
        warmth = {name: loss.warmth(context.step) for name, loss in self.losses.items()}
        return self._step(model, batch, warmth, context)

    def validation_step(self, model: nn.Module, batch: Batch) -> StepOutput:
        """See ``System``; a term counts 0 for samples that it does not exist for, as in training."""
        return self._step(model, batch, dict.fromkeys(self.losses, 1.0), None)

    def evaluate(
        self,
        model: nn.Module,
        dataset: Dataset,
        split: str,
        *,
        device: torch.device,
        progress: Progress = SILENT,
    ) -> tuple[Evaluation, dict[str, np.ndarray]]:
        """Measure the answers and the attention of a student on a split."""
        from student.drive_kd.evaluation import evaluate_questions

        student = cast("DriveKd", model)
        return evaluate_questions(student, dataset, split, device=device, progress=progress)

    def _step(
        self, model: nn.Module, batch: Batch, warmth: Mapping[str, float], context: StepContext | None
    ) -> StepOutput:
        samples = list(samples_of(batch, self.student.trainable))
        # What does not exist for a sample is a 0 that nothing is differentiated by.
        shares = [self._shares(sample.capability) for sample in samples]
        found = [
            self._terms(cast("DriveKd", model), sample, share)
            for sample, share in zip(samples, shares, strict=True)
        ]
        losses = {}
        for name, loss in self.losses.items():
            factors = [loss.weight * warmth[name] * share.get(name, 0.0) for share in shares]
            terms = [
                terms[name] * factor for terms, factor in zip(found, factors, strict=True) if name in terms
            ]
            losses[name] = torch.stack(terms).sum() / len(samples) if terms else _nothing(batch)
            if context is not None and len(samples) == 1:
                context.factors[name] = factors[0]
        sums = [torch.stack(list(terms.values())).detach().sum() for terms in found]
        return StepOutput(losses, (torch.stack(sums),))

    def _terms(self, model: DriveKd, sample: Sample, shares: Iterable[str]) -> dict[str, Tensor]:
        """Return the unweighted terms that exist for a sample."""
        active = {name: self.losses[name] for name in shares}
        output = model(
            sample.token_ids,
            sample.image_runs,
            sample.images,
            layers={layer for loss in active.values() for layer in loss.layers(model)},
            logits_from=sample.answer_start - 1,
        )
        return {name: loss(output, sample, model) for name, loss in active.items()}

    def _shares(self, capability: str) -> dict[str, float]:
        """Return the share of every term that exists for samples of a capability: 1 of the answer, and pi."""
        row = {ANSWER_CE: 1.0, **self.student.pi.row(capability)}
        return {name: row[name] for name in self.losses if row[name] > 0}


def _nothing(batch: Batch) -> Tensor:
    return torch.zeros((), device=batch[CAPABILITY].device)


def _refuse_compiled(model: nn.Module) -> None:
    if model._compiled_call_impl is not None:
        raise RequestError(
            "the network was compiled, which Drive-KD cannot use",
            expected="a network that is run as it is: samples differ in length, so that each would be "
            "compiled anew, and the terms of the loss are differentiated one by one",
            repair="use --set compile=false",
        )


def _export_folder(model: nn.Module, dataset: Dataset, folder: Path, description: str) -> str:
    from student.drive_kd.export import export_folder

    return export_folder(cast("DriveKd", model), dataset, folder, description)

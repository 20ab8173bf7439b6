"""LatentVLA-R as a system: a camera-only planner, fused with a vision-language model, or distilled from it.

Dimension letters: B batch, T step (of 0.5 s), N position of a code, K value of a code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch

from cache_schema.errors import RequestError
from cache_schema.progress import SILENT, Progress
from cache_schema.vocabulary.driving import TRAJECTORY_STEPS
from cache_schema.vocabulary.latent_actions import (
    ACT_HIDDEN,
    CAMERA_STRIP,
    CODE_LABELS,
    CODE_LOGITS,
    VIS_POOLED,
)
from student.latentvla.code_measures import measure_codes
from student.latentvla.config import LatentVlaConfig
from student.latentvla.losses import LOSSES
from student.latentvla.model import DRIVING, STATES, LatentVla, Sizes
from student.latentvla.onnx_graph import export_onnx
from student.latentvla.planner.latent_transfuser import PIXELS_A_CELL
from student.latentvla.policies import driving_policy
from student.latentvla.prediction import Loss
from student.loading.dataset import stores
from student.open_loop.evaluate import evaluate_open_loop
from student.open_loop.ground_truth import masked
from student.step import StepContext, StepOutput
from student.system import build_losses, parse_options
from student.training.gradients import SumOfLosses

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from torch import Tensor, nn

    from student.latentvla.prediction import Prediction
    from student.loading.batches import Batch
    from student.loading.dataset import Dataset
    from student.open_loop.evaluation import OpenLoopEvaluation
    from student.policy import DrivingPolicy
    from student.system import Export

OF_DECISION = ("code-kl", "code-labels", "embedding")
"""Terms of the loss of what a decision transformer tells."""


class LatentVlaSystem:
    """See ``student.system.System``."""

    exports: ClassVar[Mapping[str, Export]] = {".onnx": export_onnx}

    def __init__(self, student: Mapping[str, Any], losses: Mapping[str, Mapping[str, Any]]) -> None:
        self.student = parse_options(LatentVlaConfig, student, "student")
        self.losses = build_losses(LOSSES, losses, Loss)
        self.terms = None  # boxes are matched on the host, which no graph holds
        self.gradients = SumOfLosses()
        idle = [name for name in OF_DECISION if name in losses]
        if idle and self.student.embeddings != "student":
            raise RequestError(
                f"the loss has {', '.join(idle)}, and no decision transformer tells what they compare",
                expected='student.embeddings "student" for these terms',
                repair=f"set student.embeddings=student, or losses.{idle[0]}=off",
            )

    def required_features(self) -> tuple[str, ...]:
        """See ``System``."""
        needed = set(DRIVING).union(*(loss.required_features for loss in self.losses.values()))
        if self.student.embeddings in ("teacher", "zero", "noise"):
            needed.update(STATES)
        if self._reads_codes:
            needed.add(self.student.prefix)
        if self.student.mask == "orion":
            needed.add("frame_index")
        return tuple(sorted(needed))

    def build(self, dataset: Dataset) -> LatentVla:
        """Build a network of the dataset's sizes, with random weights."""
        rows, columns, _ = dataset.feature(CAMERA_STRIP).fixed_shape
        if rows % PIXELS_A_CELL or columns % PIXELS_A_CELL:
            raise RequestError(
                f"{CAMERA_STRIP} of {dataset} has {rows} x {columns} pixels",
                expected=f"multiples of {PIXELS_A_CELL}",
                repair="extract it again in another size",
            )
        codes = None
        if self.student.embeddings == "student":
            positions, values = dataset.feature(CODE_LOGITS).fixed_shape
            codes = positions, values
        # A student that has learned from labels is measured without them.
        if CODE_LABELS in self.required_features() and stores(dataset, CODE_LABELS):
            self._check_labels(dataset)
        return LatentVla(
            self.student, Sizes((rows, columns), TRAJECTORY_STEPS, codes, self._width_of_states(dataset))
        )

    def training_step(self, model: nn.Module, batch: Batch, context: StepContext) -> StepOutput:
        """Plan, and tell codes behind those of the teacher."""
        batch = masked(batch, self.student.mask)
        predicted = self._predict(model, batch, lambda values: context.randn(*values.shape[1:]))
        losses = {
            name: loss.warmed_up(loss(predicted, batch), context.step) for name, loss in self.losses.items()
        }
        return StepOutput(losses, _outputs(predicted))

    def validation_step(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Do the same without dropout; codes stand behind the teacher's here, too."""
        batch = masked(batch, self.student.mask)
        predicted = self._predict(model, batch, fixed_noise)
        losses = {name: loss(predicted, batch) for name, loss in self.losses.items()}
        return StepOutput(losses, _outputs(predicted))

    def policy(self, model: nn.Module) -> DrivingPolicy:
        """See ``student.policy.DrivingSystem``."""
        return driving_policy(cast("LatentVla", model), lambda batch: self._states(batch, fixed_noise))

    def evaluate(
        self,
        model: nn.Module,
        dataset: Dataset,
        split: str,
        *,
        device: torch.device,
        progress: Progress = SILENT,
    ) -> tuple[OpenLoopEvaluation, dict[str, np.ndarray]]:
        """Measure the student's plans in open loop, and its codes, if it tells any, beside the teacher's."""
        network = cast("LatentVla", model)
        features = (*DRIVING, *(STATES if network.pools is not None else ()))
        evaluation, arrays = evaluate_open_loop(
            dataset,
            split,
            {"student": self.policy(model).plan},
            features=features,
            device=device,
            progress=progress,
        )
        if network.decision is None:
            return evaluation, arrays
        codes = measure_codes(network, dataset, split, device=device)
        found = {"measures": codes.measures, "missing": (*evaluation.missing, *codes.missing)}
        return evaluation.model_copy(update=found), arrays | codes.arrays

    @property
    def _reads_codes(self) -> bool:
        config = self.student
        return config.embeddings == "student" and config.decision.decoding == "autoregressive"

    def _predict(self, model: nn.Module, batch: Batch, noise: Callable[[Tensor], Tensor]) -> Prediction:
        codes = batch[self.student.prefix] if self._reads_codes else None
        return model(*(batch[name] for name in DRIVING), states=self._states(batch, noise), codes=codes)

    def _states(self, batch: Batch, noise: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor] | None:
        """Return the states that pools read, or what an ablation puts in their place."""
        if any(name not in batch for name in STATES):
            return None
        visual, action = (batch[name] for name in STATES)
        match self.student.embeddings:
            case "zero":
                return torch.zeros_like(visual), torch.zeros_like(action)
            case "noise":
                return noise(visual), noise(action)
            case _:
                return visual, action

    def _width_of_states(self, dataset: Dataset) -> int | None:
        """Return the width of the states that pools read; None where there are no pools."""
        if not set(STATES) <= set(self.required_features()):
            return None
        visual, action = (dataset.feature(name).fixed_shape[-1] for name in STATES)
        if visual != action:
            raise RequestError(
                f"{VIS_POOLED} and {ACT_HIDDEN} of {dataset} are {visual} and {action} wide",
                expected="states of one model, of one width",
                repair="use a dataset by a teacher of latent actions",
            )
        return visual

    def _check_labels(self, dataset: Dataset) -> None:
        clips = [name for name in dataset.clips if dataset.clip(name).split == "train"]
        if clips and not any((dataset.read(clip, CODE_LABELS) >= 0).any() for clip in clips):
            raise RequestError(
                f"every one of the {CODE_LABELS} of {dataset} is -1: there is nothing to learn from",
                expected="training clips that are longer than the transitions of their labels",
                repair="add labels to longer clips, or train with code-kl",
            )


def fixed_noise(values: Tensor) -> Tensor:
    """Return standard normal numbers of a tensor's shape, the same for every batch."""
    drawn = torch.randn(values.shape, generator=torch.Generator().manual_seed(0))
    return drawn.to(values.device)


def _outputs(predicted: Prediction) -> tuple[Tensor, ...]:
    told = () if predicted.code_logits is None else (predicted.code_logits,)
    return (*predicted.plan, *told)

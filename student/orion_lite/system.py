"""Orion-Lite as a system: a student of ORION that imitates its planning token and plans with its planner.

Dimension letters: B batch, D token width, T step (of 0.5 s), Z latent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from accelerate.utils import extract_model_from_parallel

from cache_schema.errors import RequestError
from cache_schema.progress import SILENT, Progress
from cache_schema.vocabulary.orion import EGO_TOKEN, SCENE_QUERIES, VISION_TOKENS
from student.open_loop.evaluate import evaluate_open_loop
from student.open_loop.ground_truth import masked
from student.orion_lite.config import OrionLiteConfig
from student.orion_lite.losses import LOSSES, Loss
from student.orion_lite.model import OrionLite
from student.orion_lite.onnx_graph import export_onnx
from student.orion_lite.planner import PlannerConfig
from student.orion_lite.policies import FEATURES, driving_policy, policies, teacher_planner
from student.orion_lite.teacher_heads import TeacherHeads
from student.step import StepContext, StepOutput
from student.system import build_losses, parse_options
from student.training.gradients import SumOfLosses
from student.training.terms import Terms

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from torch import Tensor, nn

    from student.loading.batches import Batch
    from student.loading.dataset import Dataset
    from student.open_loop.evaluation import OpenLoopEvaluation
    from student.orion_lite.model import Prediction
    from student.orion_lite.planner import Planner
    from student.policy import DrivingPolicy
    from student.system import Export


class OrionLiteSystem:
    """See ``student.system.System``."""

    exports: ClassVar[Mapping[str, Export]] = {".onnx": export_onnx}

    def __init__(self, student: Mapping[str, Any], losses: Mapping[str, Mapping[str, Any]]) -> None:
        self.student = parse_options(OrionLiteConfig, student, "student")
        self.losses = build_losses(LOSSES, losses, Loss)
        self.terms = Terms(self.losses)
        self.gradients = SumOfLosses()

    def required_features(self) -> tuple[str, ...]:
        """See ``System``."""
        needed = {SCENE_QUERIES, EGO_TOKEN, "ego_trajectory"}
        needed.update(*(loss.required_features for loss in self.losses.values()))
        if self.student.mask == "orion":
            needed.add("frame_index")
        return tuple(sorted(needed))

    def build(self, dataset: Dataset) -> OrionLite:
        """Build a student with the teacher's planner and a new decoder."""
        if VISION_TOKENS not in dataset.derivations:
            raise RequestError(
                f"{dataset} does not hold what {VISION_TOKENS} are derived from",
                expected=f"{SCENE_QUERIES} and {EGO_TOKEN} of an ORION teacher, and its projections",
                repair="use a latent dataset that carries its teacher's heads",
            )
        planner = teacher_planner(dataset)
        maps = {
            name: torch.from_numpy(value).float()
            for name, value in dataset.derivation_maps(VISION_TOKENS).items()
        }
        heads = TeacherHeads(dataset.derivations[VISION_TOKENS], maps)
        model = OrionLite(self.student, PlannerConfig.of(planner), heads)
        model.load_planner(planner)
        return model

    def training_step(self, model: nn.Module, batch: Batch, context: StepContext) -> StepOutput:
        """Sample the planner's latent from the distribution that knows the ground truth."""
        batch = masked(batch, self.student.mask)
        planner = cast("Planner", extract_model_from_parallel(model, keep_torch_compile=False)).planner_config
        predicted = model(
            batch[SCENE_QUERIES],
            batch[EGO_TOKEN],
            trajectory=batch["ego_trajectory"],
            noise=context.randn(1, planner.latent),
            latent="future",
        )
        losses = self.terms(predicted, batch)
        warm = {name: loss.warmed_up(losses[name], context.step) for name, loss in self.losses.items()}
        return StepOutput(warm, _outputs(predicted))

    def validation_step(self, model: nn.Module, batch: Batch) -> StepOutput:
        """Plan deterministically, from the distribution that does not know the ground truth."""
        batch = masked(batch, self.student.mask)
        predicted = model(batch[SCENE_QUERIES], batch[EGO_TOKEN], trajectory=batch["ego_trajectory"])
        return StepOutput(self.terms(predicted, batch), _outputs(predicted))

    def policy(self, model: nn.Module) -> DrivingPolicy:
        """See ``student.policy.DrivingSystem``."""
        return driving_policy(cast("OrionLite", model))

    def evaluate(
        self,
        model: nn.Module,
        dataset: Dataset,
        split: str,
        *,
        device: torch.device,
        progress: Progress = SILENT,
    ) -> tuple[OpenLoopEvaluation, dict[str, np.ndarray]]:
        """Measure the plans of student and teacher in open loop."""
        return evaluate_open_loop(
            dataset,
            split,
            policies(cast("OrionLite", model), dataset, device),
            features=FEATURES,
            device=device,
            progress=progress,
        )


def _outputs(predicted: Prediction) -> tuple[Tensor, ...]:
    return predicted.planning_token, predicted.offsets

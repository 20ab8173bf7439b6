"""How Orion-Lite drives, and beside it in an evaluation its teacher.

Both plan without noise, the teacher from its stored planning tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from cache_schema.vocabulary.driving import COMMAND
from cache_schema.vocabulary.orion import EGO_TOKEN, PLANNER, PLANNING_TOKEN, SCENE_QUERIES
from student.orion_lite.planner import Planner, waypoints
from student.policy import DrivingPolicy, PolicyOutput

if TYPE_CHECKING:
    from torch import Tensor, nn

    from student.loading.batches import Batch
    from student.loading.dataset import Dataset
    from student.orion_lite.model import OrionLite
    from student.policy import Policy

DRIVING = (SCENE_QUERIES, EGO_TOKEN, COMMAND)
"""What the student reads; none depends on the future."""
FEATURES = (*DRIVING, PLANNING_TOKEN)
"""What both read."""


def driving_policy(student: OrionLite) -> DrivingPolicy:
    """Return how a student drives."""

    def plan(batch: Batch) -> PolicyOutput:
        predicted = student(batch[SCENE_QUERIES], batch[EGO_TOKEN])
        imitated = {}
        if PLANNING_TOKEN in batch:
            imitated = {PLANNING_TOKEN: (predicted.planning_token, batch[PLANNING_TOKEN])}
        return PolicyOutput(waypoints(predicted.offsets, batch[COMMAND]), imitated)

    return DrivingPolicy(DRIVING, plan)


def policies(student: OrionLite, dataset: Dataset, device: torch.device) -> dict[str, Policy]:
    """Return student and teacher, each as a function of a batch.

    Raises:
        RequestError: The dataset lacks the teacher's planner.
    """
    teacher = DrivingTeacher()
    planner = teacher.planner(dataset).to(device)
    return {"student": driving_policy(student).plan, "teacher": teacher.policy(planner).plan}


class DrivingTeacher:
    """ORION itself in the place of a student: its planner drives, by its planning tokens."""

    def planner(self, dataset: Dataset) -> Planner:
        """Read the planner out of a dataset.

        Raises:
            RequestError: The dataset lacks it.
        """
        return Planner.from_tensors(teacher_planner(dataset))

    def policy(self, model: nn.Module) -> DrivingPolicy:
        """Return how this planner drives."""
        planner = cast("Planner", model)

        def plan(batch: Batch) -> PolicyOutput:
            return PolicyOutput(waypoints(planner.plan(batch[PLANNING_TOKEN]).offsets, batch[COMMAND]))

        return DrivingPolicy((PLANNING_TOKEN, COMMAND), plan)


def teacher_planner(dataset: Dataset) -> dict[str, Tensor]:
    """Read the teacher's planner out of a dataset, in float32.

    Raises:
        RequestError: The dataset lacks it.
    """
    return {name: torch.from_numpy(value).float() for name, value in dataset.asset(PLANNER).items()}

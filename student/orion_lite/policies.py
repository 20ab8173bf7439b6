"""The driving policies that an evaluation of Orion-Lite compares: the student, and its teacher.

Both plan without noise, the teacher from its stored planning tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cache_schema.vocabulary.orion import EGO_TOKEN, PLANNER, PLANNING_TOKEN, SCENE_QUERIES
from student.open_loop.policies import PolicyOutput
from student.orion_lite.planner import Planner, waypoints

if TYPE_CHECKING:
    from torch import Tensor

    from student.loading.batches import Batch
    from student.loading.dataset import Dataset
    from student.open_loop.policies import Policy
    from student.orion_lite.model import OrionLite

FEATURES = (SCENE_QUERIES, EGO_TOKEN, PLANNING_TOKEN, "command")
"""What the policies read; none depends on the future."""


def policies(student: OrionLite, dataset: Dataset, device: torch.device) -> dict[str, Policy]:
    """Return student and teacher, each as a function of a batch.

    Raises:
        RequestError: The dataset lacks the teacher's planner.
    """
    teacher = Planner.from_tensors(teacher_planner(dataset)).to(device)

    def by_student(batch: Batch) -> PolicyOutput:
        predicted = student(batch[SCENE_QUERIES], batch[EGO_TOKEN])
        return PolicyOutput(
            waypoints(predicted.offsets, batch["command"]),
            {PLANNING_TOKEN: (predicted.planning_token, batch[PLANNING_TOKEN])},
        )

    def by_teacher(batch: Batch) -> PolicyOutput:
        return PolicyOutput(waypoints(teacher.plan(batch[PLANNING_TOKEN]).offsets, batch["command"]))

    return {"student": by_student, "teacher": by_teacher}


def teacher_planner(dataset: Dataset) -> dict[str, Tensor]:
    """Read the teacher's planner out of a dataset, in float32.

    Raises:
        RequestError: The dataset lacks it.
    """
    return {name: torch.from_numpy(value).float() for name, value in dataset.asset(PLANNER).items()}

"""A student that fits a dataset: the dataset decides the tokens, the configuration the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from student.orion_lite.model import OrionLite, OrionLiteConfig, TeacherHeads
from student.orion_lite.planner import PlannerConfig

if TYPE_CHECKING:
    from torch import Tensor

    from cache_schema.dataset.reader import LatentDataset
    from student.runs.config import TrainConfig


def build_student(dataset: LatentDataset, config: TrainConfig) -> OrionLite:
    """Build a student whose planner is the teacher's and whose decoder is new.

    Raises:
        RequestError: The dataset lacks the teacher's heads or planner.
        CheckpointError: Their tensors do not fit.
    """
    planner = asset(dataset, "teacher_planner")
    sizes = OrionLiteConfig(
        hidden=config.hidden,
        layers=config.layers,
        heads=config.heads,
        feedforward=config.feedforward,
        dropout=config.dropout,
        planner=PlannerConfig.of(planner, batch_mixing=config.batch_mixing),
    )
    heads = TeacherHeads(asset(dataset, "teacher_heads"), dataset.feature("scene_queries").segments)
    model = OrionLite(sizes, heads)
    model.take_planner(planner)
    return model


def asset(dataset: LatentDataset, stem: str) -> dict[str, Tensor]:
    """Read one of the dataset's small files of weights, as float32."""
    return {name: torch.from_numpy(value).float() for name, value in dataset.asset(stem).items()}

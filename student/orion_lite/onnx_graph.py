"""A trained student as an ONNX graph, from the features that a latent dataset stores to a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from cache_schema.vocabulary.orion import EGO_TOKEN, PLANNING_TOKEN, SCENE_QUERIES
from student.orion_lite.folded import FoldedStudent
from student.runs.onnx_graph import check_installed, first_frames, write_graph

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from student.loading.dataset import Dataset
    from student.orion_lite.model import OrionLite

INPUTS = (SCENE_QUERIES, EGO_TOKEN)
OUTPUTS = (PLANNING_TOKEN, "offsets")


def export_onnx(model: nn.Module, dataset: Dataset, file: Path, description: str) -> str:
    """Write a student as a graph; an ``Export``.

    Inputs are ``scene_queries`` (batch, query, channel) and ``ego_token`` (batch, channel) in float32; the
    teacher's projections are part of the graph. Outputs are ``planning_token`` (batch, channel) and
    ``offsets`` (batch, command, step, xy) in metres. The planner is deterministic.

    Raises:
        CheckpointError: The graph does not compute what the student, which it takes over, computes.
        RequestError: A package is not installed, or the dataset holds no frame.
    """
    check_installed()
    folded = FoldedStudent(cast("OrionLite", model))
    return write_graph(folded, first_frames(dataset, INPUTS), OUTPUTS, file, description)

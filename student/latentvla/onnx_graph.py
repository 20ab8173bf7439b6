"""A trained student as an ONNX graph, from what is known at a frame to a plan.

Dimension letters: B batch, R row, S column, M command, T step (of 0.5 s), N position of a code, K value of a
code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from cache_schema.errors import RequestError
from cache_schema.vocabulary.driving import COMMANDS
from cache_schema.vocabulary.latent_actions import CODE_LOGITS
from student.latentvla.ego_frame import to_lidar
from student.latentvla.model import DRIVING, STATES
from student.runs.onnx_graph import check_installed, first_frames, write_graph

if TYPE_CHECKING:
    from pathlib import Path

    from student.latentvla.model import LatentVla
    from student.loading.dataset import Dataset


def export_onnx(model: nn.Module, dataset: Dataset, file: Path, description: str) -> str:
    """Write a student as a graph; an ``Export``.

    Inputs are ``camera_strip`` (batch, row, column, rgb) in uint8, ``command`` (batch) in int64 and
    ``can_bus`` (batch, signal) in float32; a fused planner reads its teacher's ``vis_pooled`` and
    ``act_hidden`` besides. Outputs are ``offsets`` (batch, command, step, xy) in metres, LiDAR frame, the
    same for every command, and of a student that tells codes, one after the other, ``code_logits`` (batch,
    position, code).

    Raises:
        CheckpointError: The graph does not compute what the student computes.
        RequestError: A package is not installed, the dataset holds no frame, or the student has zeros or
            noise in place of embeddings.
    """
    check_installed()
    student = cast("LatentVla", model)
    embeddings = student.config.embeddings
    if embeddings in ("zero", "noise"):
        raise RequestError(
            f"a planner with {embeddings} in place of its teacher's states is not exported",
            expected="a student that drives by what it sees, or by its teacher's states",
            repair="export another run, or the weights of this one to .safetensors",
        )
    states = STATES if embeddings == "teacher" else ()
    inputs = first_frames(dataset, (*DRIVING, *states))
    outputs = ("offsets", *((CODE_LOGITS,) if student.decision is not None else ()))
    return write_graph(DrivingStudent(student), inputs, outputs, file, description)


class DrivingStudent(nn.Module):
    """Takes over a trained student, which cannot be trained any more."""

    def __init__(self, student: LatentVla) -> None:
        super().__init__()
        self.student = student.requires_grad_(False)
        self.eval()

    def forward(
        self,
        strip: Tensor,
        command: Tensor,
        can_bus: Tensor,
        visual: Tensor | None = None,
        action: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Plan for B frames; arguments as the network's, its states one by one.

        Returns:
            Offsets (B, M, T, 2) in metres of each step from the one before, in the LiDAR frame (x right, y
            forward); and logits (B, N, K) of a student that tells codes.
        """
        states = None if visual is None or action is None else (visual, action)
        predicted = self.student(strip, command, can_bus, states=states)
        positions = to_lidar(predicted.plan.trajectory[..., :2])  # (B, T, 2)
        offsets = torch.cat([positions[:, :1], positions[:, 1:] - positions[:, :-1]], dim=1)
        plans = offsets[:, None].expand(-1, len(COMMANDS), -1, -1)
        return (plans,) if predicted.code_logits is None else (plans, predicted.code_logits)

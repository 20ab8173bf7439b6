"""Open-loop error of a student, beside its teacher's and two trivial drivers'.

Dimension letters: N frame, T step (of 0.5 s), P picture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from rich.table import Table
from safetensors.numpy import save

from cache_schema.durable import write_durably
from cache_schema.store import LatentDataset
from student.build import asset, build_student
from student.checkpoint import read_checkpoint
from student.config import Mask
from student.data import FRAMES_WITHOUT_ORION_TRUTH, LatentFrames
from student.metrics import COLUMNS, l2_table
from student.models.planner import Planner, waypoints
from student.models.weights import load_strictly

if TYPE_CHECKING:
    from pathlib import Path

    from student.models.orion_lite import OrionLite

NEEDS = (
    "scene_queries",
    "ego_token",
    "planning_token",
    "ego_trajectory",
    "ego_trajectory_mask",
    "command",
    "frame_index",
    "can_bus",
)
PICTURED = ("lane_points", "lane_logits", "agent_xy", "agent_class_scores", "agent_offsets")
"""Features that pictures show where the dataset has them."""
PICTURES = 6
BATCH = 64
SPEED = 7
"""Index of the forward speed, m/s, in ``can_bus``."""

DRIVERS = ("student", "teacher", "constant_velocity", "stand_still")


class Evaluation(BaseModel):
    """Open-loop error in metres, for every driver and both readings of the mask."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: str
    epoch: int
    """Epochs that the student had been trained."""
    frames: dict[Mask, int]
    """Frames that count: those whose every step has a truth."""
    l2_m: dict[str, dict[Mask, dict[str, float | None]]]
    """The columns of ``student.metrics.l2_table``."""
    pictures: tuple[str, ...]
    """Clip and frame of each picture that the run's report shows."""

    def __rich__(self) -> Table:
        """Show it as a table that fits a narrow terminal: a row for each definition."""
        counted = ", ".join(f"{count} in the {mask} mask" for mask, count in self.frames.items())
        table = Table(title=f"Open-loop L2 in metres, split {self.split}; frames: {counted}")
        for heading in ("driver", "mask", "L2"):
            table.add_column(heading, no_wrap=True)
        for heading in ("1 s", "2 s", "3 s", "mean"):
            table.add_column(heading, no_wrap=True, justify="right")
        for driver, masks in self.l2_m.items():
            for mask, row in masks.items():
                for definition, columns in (("up to", COLUMNS[:4]), ("at", COLUMNS[4:])):
                    table.add_row(
                        driver.replace("_", " "), mask, definition, *(shown(row[name]) for name in columns)
                    )
            table.add_section()
        return table


def evaluate(run: Path, dataset_path: Path, split: str = "val", *, device: str = "cpu") -> Evaluation:
    """Measure a run's newest checkpoint; write ``evaluation.json`` and ``evaluation.safetensors`` beside it.

    Student and teacher plan without noise, the teacher from stored planning tokens. Constant velocity goes
    straight on at the speed that ``can_bus`` tells.

    Args:
        run: Folder of a training run.
        dataset_path: A latent dataset by the same teacher.
        split: "train", "val" or "all".
        device: Torch device.

    Raises:
        CheckpointError: The run has no readable checkpoint.
        IdentityError: The dataset is by another teacher.
        RequestError: The dataset lacks a feature, or clips of this split.
    """
    dataset = LatentDataset.open(dataset_path)
    reached, weights = read_checkpoint(run)
    reached.check_reads(dataset)
    frames = LatentFrames(dataset, split, NEEDS, mask="complete", device=torch.device(device))
    student = build_student(dataset, reached.config)
    load_strictly(student, weights)
    teacher = Planner.from_tensors(asset(dataset, "teacher_planner"))

    drives = _drive(frames, student.to(device).eval(), teacher.to(device))
    mask = drives["mask"]
    masks: dict[Mask, np.ndarray] = {
        "complete": mask,
        "orion": mask & (drives["frame_index"] >= FRAMES_WITHOUT_ORION_TRUTH)[:, None],
    }
    pictured = _spread(np.all(mask, axis=1))
    evaluation = Evaluation(
        split=split,
        epoch=reached.epoch,
        frames={name: int(np.all(valid, axis=1).sum()) for name, valid in masks.items()},
        l2_m={
            driver: {name: l2_table(drives[driver], drives["truth"], valid) for name, valid in masks.items()}
            for driver in DRIVERS
        },
        pictures=tuple(frames.names(pictured)),
    )
    tensors = {**drives, "picture": pictured, **_scenes(dataset, frames, pictured)}
    write_durably(run / "evaluation.safetensors", save(tensors))
    write_durably(run / "evaluation.json", evaluation.model_dump_json(indent=1).encode())
    return evaluation


def shown(value: float | None) -> str:
    """Return metres with three decimals, or a dash where nothing was measured."""
    return "-" if value is None else f"{value:.3f}"


@torch.no_grad()
def _drive(frames: LatentFrames, student: OrionLite, teacher: Planner) -> dict[str, np.ndarray]:
    """Return positions (N, T, 2) of ``truth`` and every driver, ``mask`` (N, T) and ``frame_index`` (N)."""
    collected: dict[str, list[torch.Tensor]] = {}
    for _, batch in frames.batches(np.arange(len(frames)), BATCH):
        truth = batch["ego_trajectory"].cumsum(dim=1)  # (B, T, 2)
        command = batch["command"]
        elapsed_s = 0.5 * torch.arange(1, truth.shape[1] + 1, device=truth.device)
        ahead = batch["can_bus"][:, SPEED, None] * elapsed_s  # (B, T)
        said = {
            "truth": truth,
            "student": waypoints(student(batch["scene_queries"], batch["ego_token"]).offsets, command),
            "teacher": waypoints(teacher.plan(batch["planning_token"]).offsets, command),
            "constant_velocity": torch.stack([torch.zeros_like(ahead), ahead], dim=-1),
            "stand_still": torch.zeros_like(truth),
            "mask": batch["ego_trajectory_mask"],
            "frame_index": batch["frame_index"],
        }
        for name, value in said.items():
            collected.setdefault(name, []).append(value.cpu())
    return {name: torch.cat(values).numpy() for name, values in collected.items()}


def _spread(counted: np.ndarray) -> np.ndarray:
    """Choose a few rows, evenly spread over those that count (over all where none does)."""
    rows = np.flatnonzero(counted) if counted.any() else np.arange(len(counted))
    chosen = np.linspace(0, len(rows) - 1, min(PICTURES, len(rows))).round().astype(int)
    return rows[chosen]


def _scenes(dataset: LatentDataset, frames: LatentFrames, rows: np.ndarray) -> dict[str, np.ndarray]:
    """What the teacher saw at these frames, (P, *shape) each."""
    there = [name for name in PICTURED if dataset.manifest.feature(name) is not None]
    return {
        name: np.stack(
            [
                dataset.read(frames.clips[frames.clip_of[row]], name, int(frames.frame_of[row])).astype(
                    np.float32
                )
                for row in rows
            ]
        )
        for name in there
    }

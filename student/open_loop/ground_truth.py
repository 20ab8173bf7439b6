"""What really happened in the clips that are evaluated.

Dimension letters: N frame, B frame of a batch, T step (of 0.5 s).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from cache_schema.vocabulary.driving import AGENTS
from student.loading.dataset import stores
from student.open_loop.occupancy import Agents

if TYPE_CHECKING:
    from collections.abc import Sequence

    from student.loading.batches import Batch
    from student.loading.dataset import Dataset

Mask = Literal["complete", "orion"]
"""Which frames have ground truth: every one for which the clip has it, or only those that ORION reads, which
leaves out the first ten frames of a clip."""
ORION_SKIPS_FRAMES = 10
"""Frames at the beginning of a clip whose ground truth ORION does not read."""

EGO_FEATURES = ("ego_trajectory", "ego_trajectory_mask", "command", "frame_index")
AGENT_FEATURES = (
    "truth_agent_boxes",
    "truth_agent_classes",
    "truth_agent_offsets",
    "truth_agent_offsets_mask",
)
"""In the order of ``Agents``."""


class GroundTruth(NamedTuple):
    """What really happened at N frames."""

    positions: np.ndarray
    """(N, T, 2) metres, LiDAR frame, of the expert."""
    mask: np.ndarray
    """(N, T) bool, steps that are known."""
    command: np.ndarray
    """(N) driving command."""
    frame_index: np.ndarray
    """(N) number of the raw frame."""
    agents: Agents | None
    """None where the dataset does not hold them."""
    crowded_frames: int | None
    """Frames with more agents than ``agents`` has places for."""

    def counted(self) -> dict[Mask, np.ndarray]:
        """Return for each mask the frames that count, (N) bool: those with every step known."""
        complete = np.all(self.mask, axis=1)
        return {"complete": complete, "orion": complete & (self.frame_index >= ORION_SKIPS_FRAMES)}


def masked(batch: Batch, mask: Mask) -> Batch:
    """Leave out of a batch the trajectories that a reading of the mask does not have."""
    if mask == "complete":
        return batch
    known = batch["frame_index"] >= ORION_SKIPS_FRAMES  # (B)
    left = {"ego_trajectory": batch["ego_trajectory"] * known[:, None, None]}
    if "ego_trajectory_mask" in batch:
        left["ego_trajectory_mask"] = batch["ego_trajectory_mask"] & known[:, None]
    return batch | left


def read_ground_truth(dataset: Dataset, clips: Sequence[str]) -> GroundTruth:
    """Read what really happened in some clips.

    Raises:
        RequestError: The dataset lacks the ego's trajectory.
    """

    def all_frames(feature: str) -> np.ndarray:
        return np.concatenate([dataset.read(clip, feature) for clip in clips])

    trajectory, mask, command, frame_index = (all_frames(feature) for feature in EGO_FEATURES)
    agents = crowded = None
    if all(stores(dataset, feature) for feature in AGENT_FEATURES):
        agents = Agents(*(all_frames(feature) for feature in AGENT_FEATURES))
        crowded = int((all_frames("truth_agent_count") > AGENTS).sum())
    return GroundTruth(trajectory.cumsum(axis=1), mask, command, frame_index, agents, crowded)

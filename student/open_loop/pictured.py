"""Which frames of an evaluation are worth a picture, and what the dataset holds to draw of them.

Dimension letters: N frame, P picture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from cache_schema.dataset.reader import LatentDataset
    from student.loading.batches import LatentFrames

PICTURED = (
    "lane_points",
    "lane_logits",
    "agent_xy",
    "agent_class_scores",
    "agent_offsets",
    "truth_agent_boxes",
    "truth_agent_classes",
)
"""Features that pictures show where the dataset has them."""
PICTURES = 6
APART = 10
"""Frames between two of a clip's worst: neighbours show the same mistake."""


def spread(counted: np.ndarray) -> np.ndarray:
    """Choose a few rows, evenly spread over those that count (over all where none does)."""
    rows = np.flatnonzero(counted) if counted.any() else np.arange(len(counted))
    chosen = np.linspace(0, len(rows) - 1, min(PICTURES, len(rows))).round().astype(int)
    return rows[chosen]


def worst_of(error: np.ndarray, counted: np.ndarray, frames: LatentFrames) -> np.ndarray:
    """Choose the rows of the largest errors, none within ``APART`` frames of another."""
    chosen: list[int] = []
    for row in np.argsort(-error, kind="stable"):
        if len(chosen) == PICTURES:
            break
        apart = all(
            frames.clip_of[row] != frames.clip_of[other]
            or abs(frames.frame_of[row] - frames.frame_of[other]) >= APART
            for other in chosen
        )
        if counted[row] and apart:
            chosen.append(int(row))
    return np.array(chosen, dtype=np.int64)


def scenes(dataset: LatentDataset, frames: LatentFrames, rows: np.ndarray) -> dict[str, np.ndarray]:
    """What is pictured of these frames, (rows, *shape) each."""
    there = [spec for name in PICTURED if (spec := dataset.manifest.feature(name)) is not None]
    return {
        spec.name: np.array(
            [
                dataset.read(frames.clips[frames.clip_of[row]], spec.name, int(frames.frame_of[row]))
                for row in rows
            ],
            np.float32,
        ).reshape(len(rows), *spec.shape)
        for spec in there
    }

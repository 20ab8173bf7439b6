"""Which frames of an evaluation are pictured, and the features that their pictures show.

Dimension letters: N frame, P picture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from student.loading.dataset import stores

if TYPE_CHECKING:
    from student.loading.batches import LatentSamples
    from student.loading.dataset import Dataset

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
BETWEEN = 10
"""Least number of frames between two of a clip's worst: neighbours show the same error."""


def spread(counted: np.ndarray) -> np.ndarray:
    """Choose a few rows, evenly spread over those that count (over all where none does)."""
    rows = np.flatnonzero(counted) if counted.any() else np.arange(len(counted))
    chosen = np.linspace(0, len(rows) - 1, min(PICTURES, len(rows))).round().astype(int)
    return rows[chosen]


def worst_of(error: np.ndarray, counted: np.ndarray, samples: LatentSamples) -> np.ndarray:
    """Choose the rows of the largest errors, none within ``BETWEEN`` frames of another."""
    chosen: list[int] = []
    for row in np.argsort(-error, kind="stable"):
        if len(chosen) == PICTURES:
            break
        far = all(
            samples.clip_of[row] != samples.clip_of[other]
            or abs(samples.sample_of[row] - samples.sample_of[other]) >= BETWEEN
            for other in chosen
        )
        if counted[row] and far:
            chosen.append(int(row))
    return np.array(chosen, dtype=np.int64)


def scenes(dataset: Dataset, samples: LatentSamples, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return the features that pictures of these frames show, (rows, *shape) each."""
    shown = [dataset.feature(name) for name in PICTURED if stores(dataset, name)]
    return {
        spec.name: np.array(
            [
                dataset.read(samples.clips[samples.clip_of[row]], spec.name, int(samples.sample_of[row]))
                for row in rows
            ],
            np.float32,
        ).reshape(len(rows), *spec.shape)
        for spec in shown
    }

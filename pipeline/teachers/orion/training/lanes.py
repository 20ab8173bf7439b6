"""Lanes of the synthetic road, as the map head should find them.

Dimension letters: L lanes, P points of a lane.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline.bench2drive.geometry import transform, ue_world2lidar
from pipeline.bench2drive.synthetic.route import LANE_WIDTH_M
from pipeline.teachers.orion.network.config import OrionConfig

if TYPE_CHECKING:
    from pipeline.bench2drive.synthetic.route import Route

BROKEN, SOLID, _SOLID_SOLID, CENTRE = range(4)
"""Labels of the map head's classes."""

LANES = (
    (-2.5 * LANE_WIDTH_M, SOLID),
    (-1.5 * LANE_WIDTH_M, SOLID),
    (-0.5 * LANE_WIDTH_M, BROKEN),
    (0.5 * LANE_WIDTH_M, SOLID),
    (-2.0 * LANE_WIDTH_M, CENTRE),
    (-1.0 * LANE_WIDTH_M, CENTRE),
    (0.0, CENTRE),
)
"""Metres to the right of the road's reference line, and label: the lines that are painted, and the lanes."""

BEHIND_M, AHEAD_M = 10.0, 40.0
"""Stretch of road around the ego that is to be found."""


def lanes_at(route: Route, s: float, ego: np.ndarray) -> dict[str, np.ndarray]:
    """Return the lanes around the ego: (L, P, 3) metres in the LiDAR frame, and labels (L).

    Args:
        route: The road.
        s: Metres that the ego has driven along it.
        ego: (4, 4) ego to UE world.
    """
    along = np.linspace(s - BEHIND_M, s + AHEAD_M, OrionConfig.lane_points)
    lines = np.stack([route.at(along, np.full_like(along, lateral))[0] for lateral, _ in LANES])
    points = np.concatenate([lines, np.zeros((*lines.shape[:2], 1))], axis=2)
    return {
        "lanes": transform(ue_world2lidar(ego), points).astype(np.float32),
        "lane_labels": np.array([label for _, label in LANES]),
    }

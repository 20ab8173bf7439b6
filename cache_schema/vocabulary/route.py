"""Routes of the CARLA leaderboard: what a driver is told at a node, and which nodes it is given.

Dimension letters: N nodes of the dense route, K nodes that are kept.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


class RoadOption(IntEnum):
    """CARLA's road options. ``cache_schema.vocabulary.driving.COMMANDS`` begins at ``LEFT``."""

    VOID = -1
    LEFT = 1
    RIGHT = 2
    STRAIGHT = 3
    LANEFOLLOW = 4
    CHANGELANELEFT = 5
    CHANGELANERIGHT = 6


LANE_CHANGES = (RoadOption.CHANGELANELEFT, RoadOption.CHANGELANERIGHT)
NODE_SPACING_M = 50.0
"""After so long a way without a node, the leaderboard keeps one."""


def command_of(option: int) -> int:
    """Return the index of an option in ``driving.COMMANDS``; without an option, the lane is followed."""
    return (RoadOption.LANEFOLLOW if option < 0 else option) - 1


def downsample(points: ArrayLike, options: ArrayLike, spacing_m: float = NODE_SPACING_M) -> np.ndarray:
    """Choose the nodes of a dense route that the leaderboard gives to an agent.

    Kept are the first node, the last, every node of a lane change, and every other node at which the option
    changes, unless it follows a lane change, or to which the way has become longer than the spacing. The way
    begins at 0 where a node is kept, and grows by the segment before every node that is not kept.

    Args:
        points: (N, 2) or (N, 3) positions of the nodes, metres.
        options: (N) ``RoadOption`` of every node.
        spacing_m: The spacing.

    Returns:
        (K) int64, the numbers of the nodes that are kept, ascending.

    Source: spec closed loop 2, the leaderboard's ``set_global_plan``.
    """
    points, options = np.asarray(points, dtype=np.float64), np.asarray(options)
    segments = np.linalg.norm(np.diff(points, axis=0), axis=1)
    kept, way = [], 0.0
    for node, option in enumerate(options):
        before = options[node - 1] if node else None
        turns = option != before and before not in LANE_CHANGES
        if option in LANE_CHANGES or turns or way > spacing_m or node == len(options) - 1:
            kept.append(node)
            way = 0.0
        else:
            way += float(segments[node - 1])
    return np.array(kept, dtype=np.int64)

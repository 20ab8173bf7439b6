"""Where a drive is on its route."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

REACHED_M = 4.0
"""A node within this distance is reached."""
AHEAD_M = 50.0
"""So far ahead on the route, nodes may be reached."""


class Node(NamedTuple):
    """A node of the route."""

    xy: np.ndarray
    """(2) metres."""
    option: int
    """``cache_schema.vocabulary.route.RoadOption``."""


class RoutePlanner:
    """The nodes of a route that are not behind yet. Two always remain.

    Source: spec Bench2Drive 6.
    """

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._nodes = deque(nodes)

    @property
    def nodes_left(self) -> int:
        """Number of nodes that remain, the one at or behind the vehicle among them."""
        return len(self._nodes)

    def step(self, position: np.ndarray) -> tuple[Node, Node]:
        """Leave behind what is reached, and return the node at or behind the vehicle and the next one.

        Of the nodes within ``REACHED_M``, the one that is farthest away becomes the first that remains.

        Args:
            position: (2) of the vehicle, metres, in the frame of the nodes.
        """
        reached, farthest, way = 0, -np.inf, 0.0
        for number in range(1, len(self._nodes)):
            if way > AHEAD_M:
                break
            way += np.linalg.norm(self._nodes[number].xy - self._nodes[number - 1].xy)
            distance = np.linalg.norm(self._nodes[number].xy - position)
            if farthest < distance <= REACHED_M:
                reached, farthest = number, distance
        for _ in range(min(reached, len(self._nodes) - 2)):
            self._nodes.popleft()
        return self._nodes[0], self._nodes[1]

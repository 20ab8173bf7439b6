"""A road to drive along, laid out piece by piece on flat ground.

Axes are UE world: x forward, y right, yaw clockwise seen from above. Metres and radians.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

LEFT, RIGHT, STRAIGHT, FOLLOW, CHANGE_LEFT, CHANGE_RIGHT = range(1, 7)
"""CARLA's road options."""

LANE_WIDTH_M = 3.5
STEP_M = 0.25
BEHIND_M, AHEAD_M = 80.0, 120.0
"""Straight road before the start and after the last piece."""
EASING_M = 3.0
"""Length over which the curvature changes."""


@dataclass(frozen=True)
class Piece:
    """A stretch of the route."""

    length: float
    turn: float = 0.0
    """Change of heading, right positive."""
    shift: float = 0.0
    """Sideways move of the ego within the road, right positive."""
    option: int = FOLLOW
    """Road option that the route planner names here."""

    @classmethod
    def arc(cls, radius: float, turn: float, option: int = FOLLOW) -> Piece:
        """A curve of a radius, through an angle."""
        return cls(radius * abs(turn), turn, option=option)


class Route:
    """The road's reference line and the ego's lane on it, looked up by distance from the start."""

    def __init__(self, pieces: Sequence[Piece], *, start: tuple[float, float], yaw: float) -> None:
        pieces = [Piece(BEHIND_M), *pieces, Piece(AHEAD_M)]
        counts = [max(1, round(piece.length / STEP_M)) for piece in pieces]
        bends = [piece.turn / (count * STEP_M) for piece, count in zip(pieces, counts, strict=True)]
        window = np.ones(round(EASING_M / STEP_M)) / round(EASING_M / STEP_M)
        self.s = np.arange(sum(counts)) * STEP_M - counts[0] * STEP_M
        self.curvature = np.convolve(np.repeat(bends, counts), window, mode="same")
        self.option = np.repeat([piece.option for piece in pieces], counts)
        moves = [
            piece.shift * (1 - np.cos(np.pi * np.arange(count) / count)) / 2
            for piece, count in zip(pieces, counts, strict=True)
        ]
        before = np.cumsum([0.0, *(piece.shift for piece in pieces[:-1])])
        self.shift = np.repeat(before, counts) + np.concatenate(moves)
        self.yaw = yaw + np.cumsum(self.curvature) * STEP_M
        self.x = start[0] + self.s[0] * np.cos(yaw) + np.cumsum(np.cos(self.yaw)) * STEP_M
        self.y = start[1] + self.s[0] * np.sin(yaw) + np.cumsum(np.sin(self.yaw)) * STEP_M

    def at(self, s: ArrayLike, lateral: ArrayLike = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Return positions (..., 2) and headings (...) at distances, ``lateral`` metres to the right."""
        s, lateral = np.asarray(s), np.asarray(lateral)
        x, y, yaw = (np.interp(s, self.s, values) for values in (self.x, self.y, self.yaw))
        return np.stack([x - lateral * np.sin(yaw), y + lateral * np.cos(yaw)], axis=-1), yaw

    def shifted(self, offset: np.ndarray) -> Route:
        """Return the road with another lane for the ego, ``offset`` metres to the right at each of ``s``."""
        other = copy(self)
        other.shift = self.shift + offset
        return other

    def slope_of_shift(self, s: ArrayLike) -> np.ndarray:
        """Sideways metres for a metre of road, in the ego's lane."""
        return np.interp(np.asarray(s), self.s, np.gradient(self.shift, STEP_M))

    def option_at(self, s: ArrayLike) -> np.ndarray:
        """Road option at distances along the road."""
        return self.option[np.clip(np.searchsorted(self.s, s), 0, len(self.s) - 1)]

"""Open-loop collisions: agents drawn on a grid, the ego's cells looked up in it (spec Bench2Drive 5.1).

For the collision rates of ``evaluate``, which wait for datasets that hold the true boxes of agents.

The published numbers were drawn with OpenCV's ``fillPoly``. The same cells come out here, those of polygons
that the border cuts included: it clips each edge to the grid in whole cells before it draws it.

Dimension letters: A agent, T step (of 0.5 s), R row, C column. The grid looks down on the ego: row 0 is 50 m
ahead, column 0 is 50 m to the left, LiDAR frame (x right, y forward).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

CELLS = 200
CELL_M = 0.5
EXTENT_M = 50.0

VEHICLES = (0, 1, 2)
"""Class numbers of car, van and truck."""
HUMANS = (3, 7)
"""Class numbers of bicycle and pedestrian."""

# Cells of a 4.084 m by 1.85 m ego, 0.5 m ahead of its origin and never turned, counted from the lower left.
_FOOTPRINT_ROWS = np.arange(97, 105)
_FOOTPRINT_COLUMNS = np.arange(98, 102)

# The published point version looks up a cell about 25 m off in both axes; only so are its numbers met.
_POINT_ORIGIN_M = 24.875


class Collisions(NamedTuple):
    """What happens at each of T steps, (T) bool."""

    truth_box: np.ndarray
    """The expert's own footprint touches an agent: such a step is not held against the prediction."""
    predicted_box: np.ndarray
    """The predicted footprint touches an agent."""
    box: np.ndarray
    """What is counted: the prediction collides and the truth does not."""
    point: np.ndarray
    """The same with the published point version in the place of the footprint."""


def collisions(predicted: np.ndarray, truth: np.ndarray, occupied: np.ndarray) -> Collisions:
    """Look up two trajectories of one frame in its grid.

    Args:
        predicted: (T, 2) positions, metres.
        truth: The same for the expert.
        occupied: (T, R, C) bool.
    """
    truth_box, predicted_box = _touches(truth, occupied), _touches(predicted, occupied)
    rows = np.trunc((_POINT_ORIGIN_M - predicted[:, 1]) / CELL_M).astype(int)
    columns = np.trunc((_POINT_ORIGIN_M + predicted[:, 0]) / CELL_M).astype(int)
    inside = (rows >= 0) & (rows < CELLS) & (columns >= 0) & (columns < CELLS)
    point = np.zeros(len(predicted), dtype=bool)
    point[inside] = occupied[inside, rows[inside], columns[inside]]
    return Collisions(truth_box, predicted_box, predicted_box & ~truth_box, point & ~truth_box)


def rasterise(boxes: np.ndarray, futures: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
    """Draw the future of one frame's agents.

    Args:
        boxes: (A, 9) x, y, bottom z, w, l, h, box yaw, vx, vy.
        futures: (A, 34) 12 xy offsets, 6 masks, goal, 9 others of which the last is the class, 6 yaw offsets.
        classes: Class numbers to draw.

    Returns:
        (T, R, C) bool, the cells that such an agent occupies.
    """
    grids = np.zeros((6, CELLS, CELLS), dtype=bool)
    chosen = np.isin(futures[:, 27].astype(int), classes)
    corners = corner_cells(boxes[chosen], futures[chosen])  # (A, T, 4, 2)
    for agent, step in np.argwhere(futures[chosen, 12:18] == 1):
        fill(grids[step], corners[agent, step])
    return grids


def corner_cells(boxes: np.ndarray, futures: np.ndarray) -> np.ndarray:
    """Corners of every agent at every step as whole (column, row) cells, (A, T, 4, 2), inside or not."""
    boxes, futures = boxes.astype(np.float64), futures.astype(np.float64)
    centre = boxes[:, None, :2] + futures[:, :12].reshape(-1, 6, 2).cumsum(axis=1)  # (A, T, 2)
    yaw = -(boxes[:, 6, None] + np.pi / 2) + futures[:, 28:34].cumsum(axis=1)  # (A, T)
    ahead = np.stack([np.cos(yaw), np.sin(yaw)], axis=-1) * boxes[:, None, 4, None] / 2  # (A, T, 2)
    aside = np.stack([-np.sin(yaw), np.cos(yaw)], axis=-1) * boxes[:, None, 3, None] / 2
    corners = np.stack([ahead + aside, ahead - aside, -ahead - aside, -ahead + aside], axis=2)
    corners = (corners + centre[:, :, None]) * (1, -1)  # (A, T, 4, 2)
    return np.round((corners + EXTENT_M) / CELL_M).astype(int)


def fill(grid: np.ndarray, corners: np.ndarray) -> None:
    """Occupy a polygon's inside and border.

    Args:
        grid: (R, C) bool, changed in place.
        corners: (4, 2) whole (column, row) cells.
    """
    rows = np.arange(max(corners[:, 1].min(), 0), min(corners[:, 1].max(), CELLS))
    meets = np.full((len(corners), len(rows)), np.inf)  # columns at which each edge meets each row
    for edge, (begin, end) in enumerate(zip(corners, np.roll(corners, -1, axis=0), strict=True)):
        ends = _clip(*begin.tolist(), *end.tolist())
        if ends is not None:
            _draw_line(grid, *ends)
        if begin[1] == end[1]:
            continue
        x0, y0, x1, y1 = ends if ends is not None and ends[1] != ends[3] else (*begin, *end)
        within = (rows >= min(begin[1], end[1])) & (rows < max(begin[1], end[1]))
        meets[edge, within] = x0 + (rows[within] - y0) * (x1 - x0) / (y1 - y0)
    meets.sort(axis=0)
    columns = np.arange(CELLS)
    for left, right in zip(meets[::2], meets[1::2], strict=True):
        grid[rows] |= (columns >= left[:, None]) & (columns <= right[:, None]) & np.isfinite(right)[:, None]


def _touches(positions: np.ndarray, occupied: np.ndarray) -> np.ndarray:
    """Whether the ego's footprint at (T, 2) positions touches an occupied cell, (T) bool."""
    rows = np.trunc(CELLS - (positions[:, 1, None] / CELL_M + _FOOTPRINT_ROWS)).astype(int)  # (T, 8)
    columns = np.trunc(positions[:, 0, None] / CELL_M + _FOOTPRINT_COLUMNS).astype(int)  # (T, 4)
    rows, columns = rows.clip(0, CELLS - 1), columns.clip(0, CELLS - 1)
    steps = np.arange(len(positions))[:, None, None]
    return occupied[steps, rows[:, :, None], columns[:, None, :]].any(axis=(1, 2))


def _draw_line(grid: np.ndarray, x0: int, y0: int, x1: int, y1: int) -> None:
    """Occupy a line of cells from its left end; half-way cells fall towards that end."""
    if x0 > x1:
        x0, y0, x1, y1 = x1, y1, x0, y0
    wide, high = x1 - x0, abs(y1 - y0)
    long, short = max(wide, high), min(wide, high)
    along = np.arange(long + 1)
    across = (2 * short * along + long - 1) // (2 * long) if long else along
    right, down = (along, across) if wide >= high else (across, along)
    grid[y0 + np.sign(y1 - y0) * down, x0 + right] = True


def _clip(x0: int, y0: int, x1: int, y1: int) -> tuple[int, int, int, int] | None:
    """Cut a line to the grid, its ends moved to whole cells; None where it is outside."""
    last = CELLS - 1

    def moved(at: int, border: int, slope: tuple[int, int]) -> int:
        return int((border - at) * slope[0] / slope[1])

    if max(y0, y1) < 0 or min(y0, y1) > last or max(x0, x1) < 0 or min(x0, x1) > last:
        return None
    if not 0 <= y0 <= last:
        border = 0 if y0 < 0 else last
        x0, y0 = x0 + moved(y0, border, (x1 - x0, y1 - y0)), border
    if not 0 <= y1 <= last:
        border = 0 if y1 < 0 else last
        x1, y1 = x1 + moved(y1, border, (x1 - x0, y1 - y0)), border
    if max(x0, x1) < 0 or min(x0, x1) > last:
        return None
    if not 0 <= x0 <= last:
        border = 0 if x0 < 0 else last
        x0, y0 = border, y0 + moved(x0, border, (y1 - y0, x1 - x0))
    if not 0 <= x1 <= last:
        border = 0 if x1 < 0 else last
        x1, y1 = border, y1 + moved(x1, border, (y1 - y0, x1 - x0))
    return x0, y0, x1, y1

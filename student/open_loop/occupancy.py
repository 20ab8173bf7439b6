"""Agents rasterised on the grid of the published collision rates (spec Bench2Drive 5.1).

The published rates use OpenCV's ``fillPoly``. The same cells are occupied here, also of polygons that cross
the border: each edge is clipped to the grid in whole cells before it is drawn.

Dimension letters: N frame, A agent, T step (of 0.5 s), R row, C column. The grid looks down on the ego: row 0
is 50 m ahead, column 0 is 50 m to the left, LiDAR frame (x right, y forward).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cache_schema.vocabulary.driving import TRAJECTORY_STEPS

CELLS = 200
CELL_M = 0.5
EXTENT_M = 50.0


class Agents(NamedTuple):
    """Agents of N frames, or of one where N is left out: the features ``truth_agent_*`` of a dataset."""

    boxes: np.ndarray
    """(N, A, 5) x, y of the middle, length, width, heading; metres and radians."""
    classes: np.ndarray
    """(N, A) class number, -1 where there is no agent."""
    offsets: np.ndarray
    """(N, A, T, 3) x, y and heading of each step from the step before, as the published metrics read it."""
    mask: np.ndarray
    """(N, A, T) bool, where the agent is known."""

    def at(self, index: np.ndarray | slice | int) -> Agents:
        """Return the agents of some of the frames."""
        return Agents(*(values[index] for values in self))

    def poses(self) -> tuple[np.ndarray, np.ndarray]:
        """Return middles (N, A, T, 2) and headings (N, A, T), moved as the published metrics move them."""
        boxes, offsets = self.boxes.astype(np.float64), self.offsets.astype(np.float64)
        moved = offsets.cumsum(axis=-2)
        return boxes[..., None, :2] + moved[..., :2], boxes[..., None, 4] + moved[..., 2]


def box_corners(middle: np.ndarray, heading: np.ndarray, length: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Return the corners (..., 4, 2) of boxes at (..., 2) with heading, length and width (...), in order."""
    ahead = np.stack([np.cos(heading), np.sin(heading)], axis=-1) * length[..., None] / 2
    aside = np.stack([-np.sin(heading), np.cos(heading)], axis=-1) * width[..., None] / 2
    corners = np.stack([ahead + aside, ahead - aside, -ahead - aside, -ahead + aside], axis=-2)
    return corners + middle[..., None, :]


def corner_cells(agents: Agents) -> np.ndarray:
    """Return the corners of every agent at every step as whole (column, row) cells, (N, A, T, 4, 2)."""
    length, width = (agents.boxes[..., None, side].astype(np.float64) for side in (2, 3))
    corners = box_corners(*agents.poses(), length, width) * (1, -1)
    return np.round((corners + EXTENT_M) / CELL_M).astype(int)


def draw(corners: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Draw polygons (A, T, 4, 2) of whole (column, row) cells, each on the grid of its step, (T, R, C) bool.

    Those that are not to be ``drawn`` (A, T) are left out.
    """
    grids = np.zeros((TRAJECTORY_STEPS, CELLS, CELLS), dtype=bool)
    for agent, step in np.argwhere(drawn):
        fill(grids[step], corners[agent, step])
    return grids


def fill(grid: np.ndarray, corners: np.ndarray) -> None:
    """Occupy the inside and border of a polygon (4, 2) of whole (column, row) cells in a grid (R, C)."""
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
    """Clip a line to the grid, its ends moved to whole cells; None where it is outside."""
    ends = [x0, y0], [x1, y1]
    for axis, other in ((1, 0), (0, 1)):
        low, high = sorted(end[axis] for end in ends)
        if high < 0 or low >= CELLS:
            return None
        for end in ends:
            border = min(max(end[axis], 0), CELLS - 1)
            if border != end[axis]:
                run, rise = (ends[1][side] - ends[0][side] for side in (other, axis))
                end[other] += int((border - end[axis]) * run / rise)
                end[axis] = border
    return (ends[0][0], ends[0][1], ends[1][0], ends[1][1])

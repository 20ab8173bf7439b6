"""Which steps of a plan collide, as published and corrected (spec Bench2Drive 5.1).

``as_published`` repeats the published metrics, faults included. Agents and ego are cells of 0.5 m; the ego's
footprint never turns; the point version looks up a cell 25 m off in both axes; an agent that was out of sight
for a step comes back at the wrong place.

``corrected`` asks whether rectangles overlap: agents where they are, and the ego turned along its path. The
point version asks whether the waypoint itself is inside an agent.

In all four, a step at which the expert's own footprint collides does not count against a plan.

Dimension letters: N frame, P plan, A agent, T step (of 0.5 s).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cache_schema.vocabulary.driving import EGO_LENGTH_M, EGO_WIDTH_M, HUMANS, VEHICLES
from student.open_loop.occupancy import CELL_M, CELLS, Agents, corner_cells, draw

if TYPE_CHECKING:
    from collections.abc import Mapping

VARIANTS = ("box_as_published", "point_as_published", "box_corrected", "point_corrected")

EGO_AHEAD_M = 0.5
"""From the ego's origin to the middle of its footprint."""
SLOWEST_M = 0.25
"""The direction of a shorter step is not taken as the ego's heading."""

# Cells of that footprint, never turned, counted from the lower left.
_FOOTPRINT_ROWS = np.arange(97, 105)
_FOOTPRINT_COLUMNS = np.arange(98, 102)

# The published point version looks up a cell about 25 m off in both axes; its numbers are only reproduced so.
_POINT_ORIGIN_M = 24.875


def collisions(
    plans: Mapping[str, np.ndarray], expert: np.ndarray, agents: Agents
) -> dict[str, dict[str, np.ndarray]]:
    """Return where the plans of policies, (N, T, 2) each in the LiDAR frame, collide with other road users.

    Returns:
        Policy -> variant -> (N, T) bool, what is counted: the plan collides and the expert's, (N, T, 2),
        does not.
    """
    planned = np.stack([expert, *plans.values()], axis=1).astype(np.float64)  # (N, P, T, 2)
    counted = agents.mask & np.isin(agents.classes, (*VEHICLES, *HUMANS))[..., None]  # (N, A, T)
    agents = agents._replace(mask=counted)
    found = dict(zip(VARIANTS, (*as_published(planned, agents), *corrected(planned, agents)), strict=True))
    excused = {kind: found[f"box_{kind}"][:, 0] for kind in ("as_published", "corrected")}
    return {
        policy: {
            variant: hits[:, number] & ~excused[variant.partition("_")[2]] for variant, hits in found.items()
        }
        for number, policy in enumerate(plans, start=1)
    }


def as_published(planned: np.ndarray, agents: Agents) -> tuple[np.ndarray, np.ndarray]:
    """Return the published box and point versions, (N, P, T) bool each, of plans (N, P, T, 2)."""
    rows = np.trunc(CELLS - (planned[..., 1, None] / CELL_M + _FOOTPRINT_ROWS)).astype(int)
    columns = np.trunc(planned[..., 0, None] / CELL_M + _FOOTPRINT_COLUMNS).astype(int)
    rows, columns = rows.clip(0, CELLS - 1), columns.clip(0, CELLS - 1)  # (N, P, T, 8), (N, P, T, 4)
    row = np.trunc((_POINT_ORIGIN_M - planned[..., 1]) / CELL_M).astype(int)  # (N, P, T)
    column = np.trunc((_POINT_ORIGIN_M + planned[..., 0]) / CELL_M).astype(int)
    inside = (row >= 0) & (row < CELLS) & (column >= 0) & (column < CELLS)

    corners = corner_cells(agents)  # (N, A, T, 4, 2)
    # Only agents near a plan are drawn: most are far from every plan.
    drawn = agents.mask & (
        _meets(corners, columns, rows) | _meets(corners, column[..., None], row[..., None])
    )
    box, point = np.zeros((2, *planned.shape[:3]), dtype=bool)
    steps = np.arange(planned.shape[2])
    for frame in np.flatnonzero(drawn.any(axis=(1, 2))):
        grids = draw(corners[frame], drawn[frame])  # (T, R, C)
        footprint = grids[steps[:, None, None], rows[frame][..., None], columns[frame][..., None, :]]
        box[frame] = footprint.any(axis=(-1, -2))  # (P, T)
        plan, step = np.nonzero(inside[frame])
        point[frame, plan, step] = grids[step, row[frame, plan, step], column[frame, plan, step]]
    return box, point


def _meets(corners: np.ndarray, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return whether an agent's bounding box meets that of the cells of any plan, (N, A, T) bool."""
    low, high = corners.min(axis=-2), corners.max(axis=-2)  # (N, A, T, 2)
    meets = np.zeros(corners.shape[:3], dtype=bool)
    for plan in range(columns.shape[1]):
        near = np.ones_like(meets)
        for axis, cells in enumerate((columns[:, plan], rows[:, plan])):
            first, last = cells.min(axis=-1)[:, None], cells.max(axis=-1)[:, None]  # (N, 1, T)
            near &= (low[..., axis] <= last) & (high[..., axis] >= first)
        meets |= near
    return meets


def corrected(planned: np.ndarray, agents: Agents) -> tuple[np.ndarray, np.ndarray]:
    """Return the corrected box and point versions, (N, P, T) bool each, of plans (N, P, T, 2)."""
    middle, agent_heading = (values.swapaxes(1, 2)[:, None] for values in _corrected_poses(agents))
    length, width = (agents.boxes[:, None, None, :, side].astype(np.float64) for side in (2, 3))
    known = agents.mask.swapaxes(1, 2)[:, None]  # (N, 1, T, A)
    ego_heading = headings(planned)[..., None]  # (N, P, T, 1)
    forward = np.concatenate([np.cos(ego_heading), np.sin(ego_heading)], axis=-1)  # (N, P, T, 2)
    footprint = planned + EGO_AHEAD_M * forward
    box = _overlap(
        middle - footprint[..., None, :],
        (ego_heading, EGO_LENGTH_M, EGO_WIDTH_M),
        (agent_heading, length, width),
    )
    point = _overlap(middle - planned[..., None, :], (ego_heading, 0.0, 0.0), (agent_heading, length, width))
    return (box & known).any(axis=-1), (point & known).any(axis=-1)


def headings(planned: np.ndarray) -> np.ndarray:
    """Return the ego's heading at each step of a plan (..., T, 2), as (..., T).

    In radians, counter-clockwise from +x: the direction of the last step, straight ahead before the first
    movement, and kept while standing.
    """
    moved = np.diff(planned, axis=-2, prepend=0.0)  # (..., T, 2)
    known = np.hypot(moved[..., 0], moved[..., 1]) >= SLOWEST_M
    heading = np.arctan2(moved[..., 1], moved[..., 0])
    heading[..., 0] = np.where(known[..., 0], heading[..., 0], np.pi / 2)
    for step in range(1, planned.shape[-2]):
        heading[..., step] = np.where(known[..., step], heading[..., step], heading[..., step - 1])
    return heading


def _corrected_poses(agents: Agents) -> tuple[np.ndarray, np.ndarray]:
    """Return middles (N, A, T, 2) and headings (N, A, T), meaningful only where an agent is known.

    The first offset after a step without the agent is its position itself.
    """
    middle, heading = agents.poses()
    position = agents.boxes[..., :2].astype(np.float64)
    before = np.ones(agents.mask.shape[:2], dtype=bool)
    for step in range(agents.mask.shape[2]):
        offset = agents.offsets[..., step, :2]
        position = np.where(before[..., None], position + offset, offset)
        middle[..., step, :], before = position, agents.mask[..., step]
    return middle, heading


def _overlap(
    offset: np.ndarray,
    one: tuple[np.ndarray, float, float],
    other: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> np.ndarray:
    """Return whether two rectangles overlap: no side of either separates them.

    ``offset`` (..., 2) leads from the middle of one to that of the other. Each rectangle is its heading,
    length and width, (...) or broadcast to it.
    """
    overlap = np.ones(offset.shape[:-1], dtype=bool)
    for (heading, length, width), (other_heading, other_length, other_width) in ((one, other), (other, one)):
        cos, sin = np.cos(heading), np.sin(heading)
        turn = other_heading - heading
        along, across = np.abs(np.cos(turn)), np.abs(np.sin(turn))
        ahead = np.abs(offset[..., 0] * cos + offset[..., 1] * sin)
        aside = np.abs(offset[..., 1] * cos - offset[..., 0] * sin)
        overlap &= 2 * ahead <= length + other_length * along + other_width * across
        overlap &= 2 * aside <= width + other_length * across + other_width * along
    return overlap

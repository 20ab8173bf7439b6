"""Bird's-eye pictures, made of small parts that are added to an axis.

LiDAR frame: x right, y forward, metres.

Dimension letters: L lane, A agent, T step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.patches import Rectangle

from cache_schema.vocabulary.driving import EGO_LENGTH_M, EGO_WIDTH_M
from student.open_loop.evaluation import words
from student.open_loop.occupancy import box_corners
from student.reporting.svg import GRID, INK

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes

SCORE = 0.5
"""Agents and lanes at or above this probability are drawn."""


class Stroke(NamedTuple):
    """How a trajectory is drawn: each by its own colour, width and marker, so that none hides another."""

    colour: str
    width: float
    marker: str
    opacity: float


STROKES = {
    "ground_truth": Stroke("#2a9d5c", 5.0, "", 0.45),
    "teacher": Stroke(INK, 1.6, "s", 0.8),
    "student": Stroke("#2f80ed", 1.6, "o", 1.0),
}


def add_ground(ax: Axes, *, half_width_m: float, behind_m: float, ahead_m: float) -> None:
    """Set the window, equal scales and a light grid."""
    ax.set(xlim=(-half_width_m, half_width_m), ylim=(-behind_m, ahead_m), aspect="equal")
    ax.grid(color=GRID, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(length=0, labelsize=7, colors=INK)
    for spine in ax.spines.values():
        spine.set_color(GRID)


def add_surroundings(ax: Axes, features: Mapping[str, np.ndarray]) -> None:
    """Draw the agents and lanes of a frame, as far as it has these features."""
    for add, names in (
        (add_boxes, ("truth_agent_boxes", "truth_agent_classes")),
        (add_lanes, ("lane_points", "lane_logits")),
        (add_agents, ("agent_xy", "agent_class_scores", "agent_offsets")),
    ):
        if all(name in features for name in names):
            add(ax, *(features[name].astype(np.float32) for name in names))


def add_boxes(ax: Axes, boxes: np.ndarray, classes: np.ndarray) -> None:
    """Draw real agents (A, 5) x, y, length, width, heading in radians, whose class (A) is not -1."""
    x, y, length, width, heading = boxes[classes >= 0].T
    outlines = _in_view(ax, box_corners(np.stack([x, y], axis=-1), heading, length, width))
    drawn = PolyCollection(
        list(outlines), facecolors="#2a9d5c33", edgecolors="#2a9d5c", linewidths=0.8, zorder=1
    )
    drawn.set_label("agents, ground truth")
    ax.add_collection(drawn)


def add_lanes(ax: Axes, points: np.ndarray, logits: np.ndarray) -> None:
    """Draw the lanes (L, 11, 2) that have a class with a logit (L, 6) of probability ``SCORE`` or more."""
    lanes = points[logits.max(axis=1) >= np.log(SCORE / (1 - SCORE))]
    shapes = list(_in_view(ax, lanes))
    ax.add_collection(LineCollection(shapes, colors="#8c959f", linewidths=0.8, zorder=1, label="lanes"))


def add_agents(ax: Axes, xy: np.ndarray, class_scores: np.ndarray, offsets: np.ndarray) -> None:
    """Draw the agents (A, 2) whose best class score (A, 9) is enough, with their futures (A, T, 2)."""
    likely = class_scores.max(axis=1) >= SCORE
    paths = np.concatenate([xy[:, None], xy[:, None] + offsets.cumsum(axis=1)], axis=1)[likely]
    paths = _in_view(ax, paths)  # (A, T + 1, 2)
    ax.add_collection(LineCollection(list(paths), colors="#9b6dd7", linewidths=0.9, zorder=2))
    ax.plot(*paths[:, 0].T, "D", color="#9b6dd7", markersize=3.5, zorder=2, label="agents, teacher")


def add_ego(ax: Axes) -> None:
    """Draw the ego vehicle at the origin."""
    width, length = EGO_WIDTH_M, EGO_LENGTH_M
    ax.add_patch(Rectangle((-width / 2, -length / 2), width, length, color=INK, alpha=0.55, zorder=3))


def add_trajectory(ax: Axes, positions: np.ndarray, name: str) -> None:
    """Draw positions (T, 2), starting at the ego, with the stroke of this name."""
    stroke = STROKES[name]
    path = np.concatenate([np.zeros((1, 2)), positions])
    ax.plot(
        *path.T,
        color=stroke.colour,
        alpha=stroke.opacity,
        linewidth=stroke.width,
        marker=stroke.marker,
        markersize=3.2,
        solid_capstyle="round",
        label=words(name),
        zorder=4,
    )


def _in_view(ax: Axes, shapes: np.ndarray) -> np.ndarray:
    """Return those of some shapes (L, P, 2) whose bounding box meets the window."""
    low, high = shapes.min(axis=1), shapes.max(axis=1)  # (L, 2)
    window = np.array([ax.get_xlim(), ax.get_ylim()])  # (2, 2)
    return shapes[np.all((high >= window[:, 0]) & (low <= window[:, 1]), axis=1)]

"""Bird's-eye pictures out of small parts that add themselves to an axis.

LiDAR frame: x right, y forward, metres.

Dimension letters: L lane, A agent, T step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EGO_SIZE_M = (1.85, 4.084)
SCORE = 0.5
"""Agents and lanes at or above this probability are drawn."""
COLOURS = {"truth": "#2b8a3e", "teacher": "#e8590c", "student": "#1864ab"}


def add_ground(ax: Axes, *, half_width_m: float, behind_m: float, ahead_m: float) -> None:
    """Set the window, equal scales and a quiet grid."""
    ax.set(xlim=(-half_width_m, half_width_m), ylim=(-behind_m, ahead_m), aspect="equal")
    ax.grid(color="#e9ecef", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(length=0, labelsize=7, colors="#868e96")
    for spine in ax.spines.values():
        spine.set_color("#ced4da")


def add_lanes(ax: Axes, points: np.ndarray, logits: np.ndarray) -> None:
    """Draw the lanes (L, 11, 2) that have a class with a logit (L, 6) of probability ``SCORE`` or more."""
    lanes = points[logits.max(axis=1) >= np.log(SCORE / (1 - SCORE))]
    ax.add_collection(LineCollection(lanes, colors="#adb5bd", linewidths=0.7, zorder=1, label="lanes"))


def add_agents(ax: Axes, xy: np.ndarray, class_scores: np.ndarray, offsets: np.ndarray) -> None:
    """Draw the agents (A, 2) whose best class score (A, 9) is enough, with their futures (A, T, 2)."""
    seen = class_scores.max(axis=1) >= SCORE
    paths = np.concatenate([xy[:, None], xy[:, None] + offsets.cumsum(axis=1)], axis=1)[seen]
    ax.add_collection(LineCollection(paths, colors="#9775fa", linewidths=0.9, zorder=2))
    ax.plot(*xy[seen].T, "s", color="#9775fa", markersize=3.5, zorder=2, label="agents")


def add_ego(ax: Axes) -> None:
    """Draw the ego vehicle at the origin."""
    width, length = EGO_SIZE_M
    ax.add_patch(Rectangle((-width / 2, -length / 2), width, length, color="#495057", zorder=3))


def add_trajectory(ax: Axes, positions: np.ndarray, label: str) -> None:
    """Draw positions (T, 2) from the ego on, in the label's colour."""
    path = np.concatenate([np.zeros((1, 2)), positions])
    ax.plot(*path.T, ".-", color=COLOURS[label], label=label, linewidth=1.6, markersize=5, zorder=4)

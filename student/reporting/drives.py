"""Rehearsed drives from above: the route, the path that was driven, and what was planned on the way.

Axes are those of the simulator's world, east to the right and north up, metres.

Dimension letters: T tick, N node of the route, S step of a plan (of 0.5 s), A other road user or thing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.collections import LineCollection, PolyCollection

from cache_schema.storage.atomic_io import write_durably
from cache_schema.storage.paths import refuse_to_replace
from cache_schema.vocabulary.driving import EGO_LENGTH_M, EGO_WIDTH_M
from student.open_loop.occupancy import box_corners
from student.reporting.html import PAGE_START, figure, page, paragraph, section
from student.reporting.svg import COLOURS, GRID, INK, STYLE, legend_below, panels, plain, svg

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TICK_S = 0.05
EVERY_TICKS = 20
"""Ticks between two cars that are drawn, and two plans."""
MARGIN_M = 8.0
"""Around the route and the path."""
SPAN = np.array([-1.0, 1.0])
TOY = (
    "A rehearsal without CARLA: the same server, agent file and supervisor, in a toy world or along recorded "
    "clips. Its scores are no Bench2Drive scores."
)


def write_page(drives: Path, target: Path) -> Path:
    """Write a page about the drives of a rehearsal, which needs nothing outside it; return it.

    Args:
        drives: Folder of ``ROUTE.npz``.
        target: The page.

    Raises:
        RequestError: The file would replace one that is no such page.
    """
    refuse_to_replace(target, PAGE_START, "a page by teachonce")
    write_durably(target, page("Rehearsed drives", [paragraph(TOY), *drawn(drives)]).encode())
    return target


def drawn(drives: Path) -> Iterator[str]:
    """Yield a section for each drive in a folder."""
    for path in sorted(drives.glob("*.npz")):
        with np.load(path) as drive:
            ticks = len(drive["poses"])
            caption = (
                f"{ticks} ticks, {ticks * TICK_S:.1f} s; a car and a plan every {EVERY_TICKS * TICK_S:g} s."
            )
            yield section(f"Route {path.stem}", [figure(svg(from_above(drive)), caption)], depth=3)


@mpl.rc_context(STYLE)
def from_above(drive: Mapping[str, np.ndarray]) -> Figure:
    """Draw a drive, and its speed over time.

    Args:
        drive: ``poses`` (T, 4) x, y, yaw in degrees clockwise, speed in m/s; ``plans`` (T, S, 2) in the LiDAR
            frame, NaN for none; ``route`` (N, 2); ``road`` (2, N, 2), its edges; ``others`` (T, A, 4, 2),
            corners. N and A may be 0. All x and y are in the UE world: x east, y south, metres.
    """
    poses = drive["poses"]
    figure, (above, speed) = panels(2, columns=2, width=4.2, height=3.6)
    for edge in drive["road"] * (1, -1):
        above.plot(*edge.T, color=INK, linewidth=0.6, alpha=0.5)
    others = drive["others"][::EVERY_TICKS] * (1, -1)
    above.add_collection(PolyCollection([*others.reshape(-1, 4, 2)], facecolors="none", edgecolors=GRID))
    _add_drive(above, poses, drive["plans"], drive["route"] * (1, -1))
    plain(above, "from above, m")
    legend_below(figure, above)
    speed.plot(np.arange(len(poses)) * TICK_S, poses[:, 3], color=COLOURS[0], linewidth=1.2)
    plain(speed, "speed, m/s", xlabel="s")
    speed.set_ylim(bottom=0)
    return figure


def _add_drive(ax: Axes, poses: np.ndarray, plans: np.ndarray, route: np.ndarray) -> None:
    positions, heading = poses[:, :2] * (1, -1), -np.radians(poses[:, 2])
    shown = np.arange(0, len(poses), EVERY_TICKS)
    ax.plot(*route.T, color=GRID, linewidth=6, solid_capstyle="round", label="route")
    ax.plot(*positions.T, color=COLOURS[0], linewidth=1.6, label="driven")
    size = np.full(len(shown), EGO_LENGTH_M), np.full(len(shown), EGO_WIDTH_M)
    boxes = box_corners(positions[shown], heading[shown], *size)
    ax.add_collection(PolyCollection([*boxes], facecolors="none", edgecolors=COLOURS[0], linewidths=0.6))
    # LiDAR frame: x right, y forward.
    forward = np.stack([np.cos(heading), np.sin(heading)], axis=-1)[shown, None]
    right = np.stack([np.sin(heading), -np.cos(heading)], axis=-1)[shown, None]
    planned = positions[shown, None] + plans[shown, :, :1] * right + plans[shown, :, 1:] * forward
    lines = np.concatenate([positions[shown, None], planned], axis=1)
    known = lines[np.isfinite(lines).all(axis=(1, 2))]
    ax.add_collection(LineCollection([*known], colors=COLOURS[1], linewidths=0.9, label="planned, 3 s"))
    visited = np.concatenate([route, positions])
    low, high = visited.min(axis=0) - MARGIN_M, visited.max(axis=0) + MARGIN_M
    middle, half = (low + high) / 2, (high - low).max() / 2
    ax.set(xlim=middle[0] + half * SPAN, ylim=middle[1] + half * SPAN, aspect="equal")

"""One frame of a dataset in one picture: the street from above, the planning token, and the cameras.

LiDAR frame: x right, y forward, metres.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import RequestError
from cache_schema.storage.atomic_io import write_durably
from cache_schema.storage.paths import refuse_to_replace
from cache_schema.vocabulary.driving import COMMANDS
from student.loading.dataset import stores
from student.open_loop.pictured import PICTURED
from student.reporting import bev
from student.reporting.svg import COLOURS, STYLE, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

    from cache_schema.format.ledger import ClipInfo

    Cameras = Callable[[str, int], Mapping[str, np.ndarray]]

SHOWN = (
    *PICTURED,
    "ego_trajectory",
    "ego_trajectory_mask",
    "planning_token",
    "command",
    "timestamp",
    "frame_index",
)
"""Features that the picture shows, as far as the dataset has them."""
PNG_START = b"\x89PNG\r\n"
CAMERAS_PER_ROW = 3
LARGEST = 10
"""Channels of the planning token that are labelled."""


@mpl.rc_context(STYLE)
def show(where: str | Path, clip: str, frame: int, target: Path, *, cameras: Cameras | None = None) -> Path:
    """Draw one frame and write it as PNG.

    Args:
        where: The dataset's folder or URL.
        clip: Name of the clip.
        frame: Number of the frame in the dataset's clip, from 0.
        target: The PNG to write.
        cameras: Returns images (h, w, 3) uint8 RGB by name for a clip and the number of its raw frame.

    Raises:
        RequestError: The clip has no such frame, or the picture would replace another file.
        DatasetError: There is no such clip, or it is damaged.
    """
    refuse_to_replace(target, PNG_START, "a PNG picture")
    dataset = LatentDataset.open(where)
    info = dataset.clip(clip)
    if not 0 <= frame < info.frames:
        raise RequestError(
            f"the clip {clip!r} has no frame {frame}",
            expected=f"0 to {info.frames - 1}",
            repair="choose another frame",
        )
    features = [name for name in SHOWN if stores(dataset, name)]
    values = {name: dataset.read(clip, name, frame) for name in features}
    images = {} if cameras is None else cameras(clip, int(values.get("frame_index", frame)))
    content = io.BytesIO()
    picture(info, frame, values, images).savefig(content, format="png", dpi=130)
    write_durably(target, content.getvalue())
    return target


@mpl.rc_context(STYLE)
def picture(
    info: ClipInfo, frame: int, values: Mapping[str, np.ndarray], images: Mapping[str, np.ndarray]
) -> Figure:
    """Lay out the features ``SHOWN`` of a clip's frame, and its camera images, if any, in reading order."""
    figure = Figure(figsize=(15, 7.5) if images else (10, 7), layout="constrained")
    figure.suptitle(_title(info, frame, values), fontsize=9)
    widths = (1, 2.1) if images else (1.3, 1)
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=widths).flat
    add_street(left.subplots(), values)
    if images:
        above, right = right.subfigures(2, 1, squeeze=False, height_ratios=(1.3, 1)).flat
        _add_cameras(above, images)
    if "planning_token" in values:
        token = values["planning_token"].ravel().astype(np.float64)  # (D)
        spread, largest = right.subplots(*((1, 2) if images else (2, 1)))
        add_spread(spread, token)
        add_largest(largest, token)
    return figure


def add_street(ax: Axes, values: Mapping[str, np.ndarray]) -> None:
    """Draw lanes, agents and the ground-truth trajectory from above."""
    bev.add_ground(ax, half_width_m=25, behind_m=20, ahead_m=50)
    bev.add_surroundings(ax, values)
    bev.add_ego(ax)
    if "ego_trajectory" in values:
        known = values.get("ego_trajectory_mask", np.ones(len(values["ego_trajectory"]), bool))
        bev.add_trajectory(ax, values["ego_trajectory"].cumsum(axis=0)[known], "ground_truth")
    ax.set_xlabel("x, to the right (m)", fontsize=8)
    ax.set_ylabel("y, ahead (m)", fontsize=8)
    if ax.get_legend_handles_labels()[1]:
        ax.legend(loc="upper right", fontsize=7, framealpha=0.9)


def add_spread(ax: Axes, token: np.ndarray) -> None:
    """Draw the distribution of the numbers of a planning token (D)."""
    ax.hist(token, bins=60, color=COLOURS[0])
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(LogFormatter())
    ax.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))
    ax.set_ylabel("channels", fontsize=8)
    plain(
        ax,
        f"planning token: {token.size} channels, norm {np.linalg.norm(token):.4g}\n"
        f"mean {token.mean():.3g}, std {token.std():.3g}, from {token.min():.3g} to {token.max():.3g}",
        xlabel="value",
    )


def add_largest(ax: Axes, token: np.ndarray) -> None:
    """Draw the largest channels of a planning token (D), by magnitude."""
    order = np.argsort(-abs(token))[:LARGEST]
    ax.barh([str(channel) for channel in order], token[order], color=COLOURS[1])
    ax.invert_yaxis()
    ax.set_ylabel("channel", fontsize=8)
    plain(ax, f"its {len(order)} largest channels", xlabel="value")


def _add_cameras(area: SubFigure, images: Mapping[str, np.ndarray]) -> None:
    rows = -(-len(images) // CAMERAS_PER_ROW)
    axes = list(area.subplots(rows, CAMERAS_PER_ROW, squeeze=False).flat)
    for ax, (name, image) in zip(axes, images.items(), strict=False):
        ax.imshow(image)
        ax.set_title(name, fontsize=8)
    for ax in axes:
        ax.set_axis_off()


def _title(info: ClipInfo, frame: int, values: Mapping[str, np.ndarray]) -> str:
    where = [info.split, *(f"{tag} {text}" for tag, text in info.tags.items())]
    when = [f"frame {frame} of {info.frames}"]
    if "frame_index" in values:
        when.append(f"raw frame {int(values['frame_index'])}")
    if "timestamp" in values:
        when.append(f"{float(values['timestamp']):.1f} s")
    if "command" in values:
        command = int(values["command"])
        when.append(f"command {COMMANDS[command] if 0 <= command < len(COMMANDS) else command}")
    return f"{info.name}: {', '.join(where)}\n{', '.join(when)}"

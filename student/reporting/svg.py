"""Figures as SVG to be embedded in a page: no metadata, no addresses, text in the page's text colour."""

from __future__ import annotations

import io
import math
import re
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#010203"
"""Replaced by the colour of the page's text."""
GRID = "#8080804d"
"""A light grey on light and on dark backgrounds."""
COLOURS = ("#2f80ed", "#e8751a", "#2a9d5c", "#9b6dd7", "#d64545", "#1a9ba1", "#c2578f", "#8a8a1f")
"""For runs, in order; all are legible on light and on dark backgrounds."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "teachonce",
    "text.parse_math": False,  # names come from files
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.edgecolor": GRID,
    "xtick.color": GRID,
    "xtick.labelcolor": INK,
    "ytick.color": GRID,
    "ytick.labelcolor": INK,
}
"""To be active while a figure is drawn, and while it is written."""


def panels(count: int, *, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure with so many panels in rows; width and height in inches, of one panel."""
    across = min(columns, count)
    rows = math.ceil(count / across)
    figure = Figure(figsize=(width * across, height * rows), layout="constrained")
    axes = list(figure.subplots(rows, across, squeeze=False).flat)
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]


def plain(ax: Axes, title: str, *, xlabel: str = "") -> None:
    """Give a panel its title and a light frame."""
    ax.set_title(title, fontsize=9, parse_math=False)
    ax.set_xlabel(xlabel, fontsize=8)
    ax.tick_params(labelsize=7, length=2)
    ax.grid(color=GRID, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def legend_below(figure: Figure, ax: Axes) -> None:
    """Show one panel's legend under the whole figure."""
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(len(labels), 6), frameon=False, fontsize=8
    )


@mpl.rc_context(STYLE)
def svg(figure: Figure) -> str:
    """Return a figure as an element for a page."""
    content = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(content, format="svg", transparent=True, metadata=no_metadata)
    drawn = content.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    # Inside HTML, namespaces are implied; the rest makes text look like the page's.
    drawn = re.sub(r'<g id="[^"]*"', "<g", drawn)  # ids would occur twice in a page of several figures
    drawn = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", drawn, count=2)
    drawn = re.sub(r"'DejaVu Sans'[^;\"]*sans-serif", "system-ui, sans-serif", drawn)
    return drawn.replace(INK, "currentColor").strip()

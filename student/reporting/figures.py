"""The figures of a report: loss curves, cosines of features, errors by group, codes, frames from above."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from student.open_loop.evaluation import shown, words
from student.open_loop.pictured import PICTURED
from student.reporting import bev
from student.reporting.run_summary import CODES, DRIVEN, GROUP_L2
from student.reporting.svg import COLOURS, INK, STYLE, legend_below, panels, plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from student.open_loop.evaluation import By, Estimate
    from student.reporting.run_summary import RunSummary

LARGEST_LINEAR_RANGE = 30.0
"""A term whose values differ by more than this factor is drawn on a log scale."""


@mpl.rc_context(STYLE)
def loss_curves(runs: Sequence[RunSummary]) -> Figure:
    """Draw every term of the loss over epochs, one panel each."""
    terms = list(dict.fromkeys(term for run in runs for epoch in run.epochs for term in epoch.train))
    terms.sort(key=lambda term: term != "total")
    figure, axes = panels(len(terms), columns=3, width=3.3, height=2.4)
    for ax, term in zip(axes, terms, strict=True):
        _add_term(ax, runs, term)
    legend_below(figure, axes[0])
    return figure


def _add_term(ax: Axes, runs: Sequence[RunSummary], term: str) -> None:
    """Draw train and val: distinguished by colour for one run, by style for several."""
    drawn: list[float] = []
    for number, run in enumerate(runs):
        for second, split in enumerate(("train", "val")):
            losses = [(epoch.epoch, (getattr(epoch, split) or {}).get(term)) for epoch in run.epochs]
            known = [(epoch, value) for epoch, value in losses if value is not None and math.isfinite(value)]
            if not known:
                continue
            drawn += [value for _, value in known]
            alone = len(runs) == 1
            ax.plot(
                *zip(*known, strict=True),
                ":" if second and not alone else "-",
                color=COLOURS[(second if alone else number) % len(COLOURS)],
                label=split if alone else f"{run.name}, {split}",
                linewidth=1.4,
                marker=".",
                markersize=4,
            )
    if drawn and min(drawn) > 0 and max(drawn) > LARGEST_LINEAR_RANGE * min(drawn):
        ax.set_yscale("log")
        # The default formatter writes mathematics, which is off because names come from files.
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
    plain(ax, term, xlabel="epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


@mpl.rc_context(STYLE)
def cosines(feature: str, runs: Sequence[RunSummary]) -> Figure:
    """Draw how similar a feature of the student is to the teacher's, as shares of frames."""
    figure, (ax,) = panels(1, columns=1, width=6.4, height=2.6)
    for number, run in enumerate(runs):
        if feature in run.cosines:
            histogram = run.cosines[feature]
            counts, edges = np.array(histogram.counts), np.array(histogram.edges)
            colour = COLOURS[number % len(COLOURS)]
            ax.stairs(counts / counts.sum(), edges, color=colour, fill=True, alpha=0.25)
            ax.stairs(counts / counts.sum(), edges, color=colour, linewidth=1.4, label=run.name)
    plain(ax, f"cosine of the student's {feature} with the teacher's", xlabel="cosine")
    ax.set_ylabel("share of frames", fontsize=8)
    if len(runs) > 1:
        legend_below(figure, ax)
    return figure


@mpl.rc_context(STYLE)
def errors_by(by: By, runs: Sequence[RunSummary]) -> Figure | None:
    """Draw the mean L2 of every group with its interval, the students' largest on top.

    The student of each run, and the first teacher that was measured; None where there are no groups.
    """
    rows: dict[str, dict[str, Estimate]] = {}
    frames: dict[str, int] = {}
    for run in runs:
        groups = () if run.open_loop is None else run.open_loop.groups
        for group in (group for group in groups if group.by == by):
            means = rows.setdefault(group.name, {})
            frames.setdefault(group.name, group.frames)
            if "teacher" in group.means:
                means.setdefault("teacher", group.means["teacher"][GROUP_L2])
            means["student" if len(runs) == 1 else run.name] = group.means["student"][GROUP_L2]
    if not rows:
        return None
    names = dict.fromkeys(name for means in rows.values() for name in means)
    series = sorted(names, key=lambda name: name == "teacher")
    students = [name for name in series if name != "teacher"]
    order = sorted(rows, key=lambda name: max(rows[name][s].value for s in students if s in rows[name]))
    spread = 0.16 * len(series)
    figure, (ax,) = panels(1, columns=1, width=8.4, height=0.9 + len(order) * (0.12 + 0.09 * len(series)))
    for number, name in enumerate(series):
        places = [place for place, group in enumerate(order) if name in rows[group]]
        means = [rows[order[place]][name] for place in places]
        colour = INK if name == "teacher" else COLOURS[number % len(COLOURS)]
        shift = spread * (0.5 - (number + 0.5) / len(series))
        _add_estimates(ax, means, np.array(places) + shift, colour, name)
    ax.set_yticks(range(len(order)), [f"{name} ({frames[name]})" for name in order])
    ax.set_ylim(-0.6, len(order) - 0.4)
    ax.set_xlim(left=0)
    plain(ax, f"by {by}", xlabel="mean L2 up to 1, 2 and 3 s, metres")
    legend_below(figure, ax)
    return figure


def _add_estimates(ax: Axes, means: Sequence[Estimate], places: np.ndarray, colour: str, label: str) -> None:
    values = np.array([mean.value for mean in means])
    ends = np.array([mean.interval or (mean.value, mean.value) for mean in means])
    ax.errorbar(
        values,
        places,
        # A percentile interval of a skewed mean may end short of the mean itself.
        xerr=np.abs(np.stack([np.minimum(ends[:, 0] - values, 0), np.maximum(ends[:, 1] - values, 0)])),
        fmt="o",
        color=colour,
        markersize=3.5,
        linewidth=1.2,
        label=label,
    )


@mpl.rc_context(STYLE)
def codes(arrays: dict[str, np.ndarray], rows: np.ndarray, measures: Mapping[str, Estimate]) -> Figure:
    """Draw the codes of one clip's frames over time, a colour each, and below them what they are probed for.

    ``rows`` (F) are the clip's in the arrays of ``evaluation.safetensors``.
    """
    told = {name.removeprefix(CODES): arrays[name] for name in sorted(arrays) if name.startswith(CODES)}
    driven = {name.removeprefix(DRIVEN): arrays[name] for name in sorted(arrays) if name.startswith(DRIVEN)}
    figure, axes = panels(len(told) + len(driven), columns=1, width=8.4, height=1.6)
    for ax, (whose, chosen) in zip(axes, told.items(), strict=False):
        for position, over_time in enumerate(chosen[rows].T):
            _add_codes(ax, over_time, position)
        ax.set(xlim=(-0.5, len(rows) - 0.5), ylim=(chosen.shape[1] - 0.5, -0.5))
        plain(ax, f"codes of the {whose}")
        ax.set_ylabel("position", fontsize=8)
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    for number, (ax, (quantity, values)) in enumerate(zip(axes[len(told) :], driven.items(), strict=True)):
        ax.plot(values[rows], color=COLOURS[number % len(COLOURS)], linewidth=1.4)
        prefix = f"r2_{quantity}_"
        scores = [
            f"{words(name.removeprefix(prefix))} {shown(found.value)}"
            for name, found in measures.items()
            if name.startswith(prefix)
        ]
        plain(ax, f"{words(quantity)}; R2 {', '.join(scores)}" if scores else words(quantity))
        ax.set_xlim(-0.5, len(rows) - 0.5)
    axes[-1].set_xlabel("frame of the clip", fontsize=8)
    return figure


def _add_codes(ax: Axes, codes: np.ndarray, position: int) -> None:
    """Draw the codes (F) of one position as bars, one for each stretch of frames with the same code."""
    begins = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])
    lengths = np.diff(np.r_[begins, len(codes)])
    palette = mpl.colormaps["tab20"]
    ax.broken_barh(
        np.stack([begins - 0.5, lengths], axis=1).tolist(),
        (position - 0.5, 1),
        facecolors=palette(codes[begins] % palette.N),
        linewidth=0,
    )


@mpl.rc_context(STYLE)
def from_above(arrays: dict[str, np.ndarray], rows: str, prefix: str, titles: Sequence[str]) -> Figure:
    """Draw frames from above: the surroundings, and the paths of expert, teacher and student.

    ``rows`` names the array of ``evaluation.safetensors`` that lists the frames; the names of those of their
    features begin with ``prefix``.
    """
    figure, axes = panels(len(titles), columns=3, width=3.3, height=4.3)
    for number, (ax, title, row) in enumerate(zip(axes, titles, arrays[rows], strict=True)):
        bev.add_ground(ax, half_width_m=20, behind_m=10, ahead_m=40)
        scene = {name: arrays[prefix + name][number] for name in PICTURED if prefix + name in arrays}
        bev.add_surroundings(ax, scene)
        bev.add_ego(ax)
        for name in (name for name in bev.STROKES if name in arrays):
            bev.add_trajectory(ax, arrays[name][row], name)
        ax.set_title(title, fontsize=6.5, parse_math=False)
    legend_below(figure, axes[0])
    return figure

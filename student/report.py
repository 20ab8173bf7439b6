"""One self-contained page about a run: loss curves, the table of errors, and a few frames from above."""

from __future__ import annotations

import base64
import html
import io
import math
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load

from cache_schema.durable import write_durably
from cache_schema.errors import CheckpointError, RequestError
from student import birdseye
from student.checkpoint import read_checkpoint
from student.evaluate import Evaluation, shown
from student.metrics import COLUMNS
from student.runlog import read_log

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from matplotlib.axes import Axes

PANELS_A_ROW = 3

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #212529 }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse } th, td { padding: .2rem .7rem; text-align: right }
th { border-bottom: 1px solid #adb5bd; font-weight: 600 } th:first-child, td:first-child { text-align: left }
img { max-width: 100% }
"""


def report(run: Path) -> Path:
    """Write ``losses.png``, ``frames.png`` and ``report.html`` into a run's folder.

    Frames and the table of errors are shown once ``evaluate`` has measured them.

    Returns:
        The page.

    Raises:
        RequestError: The run has not finished an epoch.
        CheckpointError: What training or evaluation wrote cannot be read.
    """
    epochs = [line for line in read_log(run) if line["kind"] == "epoch"]
    if not epochs:
        raise RequestError(
            f"{run} has no finished epoch",
            expected="the folder of a training run",
            repair="train first, or correct the path",
        )
    reached, _ = read_checkpoint(run)
    parts = [f"<h1>{html.escape(run.resolve().name)}</h1>"]
    teacher = reached.trained_on.teacher
    parts.append(
        f"<p>{reached.epoch} epochs, {reached.step} steps on {reached.trained_on.clips} clips by "
        f"{html.escape(teacher.name)} ({html.escape(teacher.weights[:24])}).</p>"
    )
    parts += ["<h2>Losses</h2>", _picture(run / "losses.png", loss_curves(epochs))]
    found = _evaluation(run)
    if found is None:
        parts.append("<p>Not evaluated yet.</p>")
    else:
        evaluation, tensors = found
        parts += ["<h2>Open-loop error</h2>", _table(evaluation), "<h2>Frames</h2>"]
        parts.append(_picture(run / "frames.png", frames_from_above(evaluation, tensors)))
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>{html.escape(run.resolve().name)}</title><style>{STYLE}</style>{''.join(parts)}</html>\n"
    )
    write_durably(run / "report.html", page.encode())
    return run / "report.html"


def loss_curves(epochs: list[dict[str, Any]]) -> Figure:
    """Draw every term of the loss over epochs, one panel each."""
    names = sorted(epochs[0]["train"], key=lambda name: name != "total")
    figure, panels = _grid(len(names), width=3.2, height=2.3)
    for ax, name in zip(panels, names, strict=False):
        add_curve(ax, epochs, name)
    panels[0].legend(frameon=False, fontsize=8)
    return figure


def add_curve(ax: Axes, epochs: list[dict[str, Any]], name: str) -> None:
    """Draw one term, trained and held out; on a log scale where it spans decades."""
    seen: list[float] = []
    for split, colour in (("train", "#1864ab"), ("val", "#e8590c")):
        lines = [line for line in epochs if line[split] is not None]
        values = [line[split][name] for line in lines]
        seen += values
        ax.plot([line["epoch"] for line in lines], values, ".-", color=colour, label=split, linewidth=1.2)
    spans_decades = min(seen) > 0 and max(seen) > 30 * min(seen)
    ax.set_yscale("log" if spans_decades else "linear")
    ax.set_title(name, fontsize=9)
    ax.set_xlabel("epoch", fontsize=8)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.tick_params(labelsize=7)
    ax.grid(color="#e9ecef", linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)


def frames_from_above(evaluation: Evaluation, tensors: dict[str, np.ndarray]) -> Figure:
    """Draw the evaluation's frames: lanes and agents as the teacher saw them, and three trajectories."""
    figure, panels = _grid(len(evaluation.pictures), width=3.2, height=4.2)
    for number, (ax, name, row) in enumerate(
        zip(panels, evaluation.pictures, tensors["picture"], strict=False)
    ):
        birdseye.add_ground(ax, half_width_m=20, behind_m=10, ahead_m=40)
        if "lane_points" in tensors and "lane_logits" in tensors:
            birdseye.add_lanes(ax, tensors["lane_points"][number], tensors["lane_logits"][number])
        if {"agent_xy", "agent_class_scores", "agent_offsets"} <= tensors.keys():
            birdseye.add_agents(
                ax,
                tensors["agent_xy"][number],
                tensors["agent_class_scores"][number],
                tensors["agent_offsets"][number],
            )
        birdseye.add_ego(ax)
        for driver in birdseye.COLOURS:
            birdseye.add_trajectory(ax, tensors[driver][row], driver)
        clip, frame = name.rsplit(" ", 1)
        ax.set_title(f"{clip}\nframe {frame}", fontsize=6)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=8)
    return figure


def _grid(count: int, *, width: float, height: float) -> tuple[Figure, list[Axes]]:
    columns = min(PANELS_A_ROW, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for spare in panels[count:]:
        spare.remove()
    return figure, panels[:count]


def _picture(path: Path, figure: Figure) -> str:
    """Write a figure as PNG; return it as an image inside the page."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    write_durably(path, content.getvalue())
    encoded = base64.b64encode(content.getvalue()).decode()
    return f'<img alt="{html.escape(path.stem)}" src="data:image/png;base64,{encoded}">'


def _table(evaluation: Evaluation) -> str:
    head = "".join(f"<th>{column.replace('_', ' ')}</th>" for column in ("driver", "mask", *COLUMNS))
    rows = "".join(
        f"<tr><td>{driver.replace('_', ' ')}</td><td>{mask}</td>"
        + "".join(f"<td>{shown(row[column])}</td>" for column in COLUMNS)
        + "</tr>"
        for driver, masks in evaluation.l2_m.items()
        for mask, row in masks.items()
    )
    counted = ", ".join(f"{count} in the {mask} mask" for mask, count in evaluation.frames.items())
    return (
        f"<p>L2 in metres on the split {evaluation.split} after {evaluation.epoch} epochs; frames with a "
        f"whole truth: {counted}.</p><table><tr>{head}</tr>{rows}</table>"
    )


def _evaluation(run: Path) -> tuple[Evaluation, dict[str, np.ndarray]] | None:
    if not (run / "evaluation.json").exists():
        return None
    try:
        evaluation = Evaluation.model_validate_json((run / "evaluation.json").read_bytes())
        return evaluation, load((run / "evaluation.safetensors").read_bytes())
    except (ValidationError, SafetensorError, OSError) as error:
        raise CheckpointError(
            f"the evaluation in {run} cannot be read: {error}",
            expected="evaluation.json and evaluation.safetensors as `teachonce evaluate` writes them",
            repair="evaluate the run again",
        ) from error

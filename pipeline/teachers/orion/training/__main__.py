"""``python -m pipeline.teachers.orion.training RUN``: train the tiny ORION of the demo."""

from __future__ import annotations

import platform
from pathlib import Path  # noqa: TC003  # typer reads it
from typing import Annotated

import torch
import typer

from cache_schema.terminal import ProgressBar, out
from pipeline.teachers.orion.checkpoints.convert import write_folder
from pipeline.teachers.orion.checkpoints.reader import digest
from pipeline.teachers.orion.presets import ORION_TINY
from pipeline.teachers.orion.training.cache import windows_of
from pipeline.teachers.orion.training.card import card
from pipeline.teachers.orion.training.measure import measure
from pipeline.teachers.orion.training.train import TeacherTraining, train

WEIGHTS = "weights"
"""Folder in the run, for ``--checkpoint``."""
CARD = "CARD.md"
DEFAULT = TeacherTraining()


def main(
    run: Annotated[Path, typer.Argument(help="Folder of the run; one that was interrupted goes on.")],
    data: Annotated[Path | None, typer.Option(help="Folder of drawn clips; by default in the run.")] = None,
    clips: Annotated[int, typer.Option(min=1, help="Clips to learn from.")] = DEFAULT.clips,
    weaving: Annotated[int, typer.Option(min=0, help="More, in which the ego weaves.")] = DEFAULT.weaving,
    held_out: Annotated[int, typer.Option(min=1, help="Clips to measure with.")] = DEFAULT.held_out,
    seed: Annotated[int, typer.Option(min=0, help="Of first weights and order.")] = DEFAULT.seed,
    workers: Annotated[int, typer.Option(min=1, help="Processes that draw clips.")] = 2,
) -> None:
    """Train the tiny ORION of the demo on synthetic clips, and write its weights and their card."""
    settings = TeacherTraining(clips=clips, weaving=weaving, held_out=held_out, seed=seed)
    folder = data or run / "clips"
    with ProgressBar("draw", "clips") as bar:
        windows = windows_of(settings.learned, ORION_TINY.images, folder, workers=workers, progress=bar)
    with ProgressBar("draw held-out", "clips") as bar:
        measured = windows_of(settings.measured, ORION_TINY.images, folder, workers=workers, progress=bar)
    with ProgressBar("train", "steps") as bar:
        trained = train(ORION_TINY, settings, run, windows, progress=bar)
    figures = measure(trained.model, trained.planner, ORION_TINY.config, ORION_TINY.images, measured)
    weights = {name: weight.detach() for name, weight in trained.weights()}
    write_folder(iter(weights.items()), run / WEIGHTS, config=ORION_TINY.config)
    hardware = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    text = card(settings, figures, digest(weights.items()), f"{hardware}, torch {torch.__version__}")
    (run / WEIGHTS / CARD).write_text(text, "utf-8")
    out.print(text)


if __name__ == "__main__":
    typer.run(main)

"""Commands of the light stage: students, from latent datasets alone."""

from __future__ import annotations

import enum
import os
from pathlib import Path
from typing import Annotated

import typer

from cache_schema.errors import RequestError
from cache_schema.terminal import DatasetUrl, Device, ProgressBar, Split, SplitChoice, out, torch_device

commands = typer.Typer()
PANEL = "Student"


class Resident(enum.StrEnum):
    """Where training frames stay."""

    NONE = "none"
    RAM = "ram"
    DEVICE = "device"


RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder of a training run.")]
ResidentChoice = Annotated[
    Resident, typer.Option(help="Keep the training frames in host memory, or on the GPU.")
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="FIELD=VALUE", help="Change the recipe, such as epochs=5. May be repeated."
    ),
]
Trackers = Annotated[
    list[str] | None,
    typer.Option("--tracker", help="tensorboard (default where installed), trackio, wandb, or none."),
]


@commands.command(rich_help_panel=PANEL)
def train(
    dataset: DatasetUrl,
    run: Annotated[
        Path, typer.Option("--run", metavar="RUN_DIR", help="Folder of the run; resumed if there.")
    ],
    preset: Annotated[
        str,
        typer.Option(
            help="Recipe: orion-lite (released), orion-lite-plus, demo (small), ..., or package.module:NAME."
        ),
    ] = "demo",
    changes: Changes = None,
    resident: ResidentChoice = Resident.NONE,
    trackers: Trackers = None,
    device: Device = None,
) -> None:
    """Train a student from what the teacher said. The teacher is never loaded."""
    from student.runs.config import preset as recipe
    from student.training.train import train

    with ProgressBar("train", "steps") as bar:
        result = train(
            dataset,
            run,
            recipe(preset, _changes(changes)),
            device=torch_device(device),
            resident=resident.value,
            trackers=_trackers(trackers),
            progress=bar,
        )
    if os.environ.get("RANK", "0") == "0":  # of the processes that torchrun starts, one speaks
        out.print(f"{run}: {result.epoch} epochs, {result.step} steps")


@commands.command(rich_help_panel=PANEL)
def sweep(
    dataset: DatasetUrl,
    presets: Annotated[list[str], typer.Argument(metavar="PRESET...", help="Recipes, as in `train`.")],
    runs: Annotated[Path, typer.Option("--runs", metavar="DIR", help="Folder with a run for each preset.")],
    changes: Changes = None,
    resident: ResidentChoice = Resident.NONE,
    trackers: Trackers = None,
    device: Device = None,
) -> None:
    """Train and evaluate several recipes, and put them in one table."""
    from student.reporting.sweep import sweep

    with ProgressBar("train", "steps") as bar:
        table = sweep(
            dataset,
            runs,
            presets,
            changes=_changes(changes),
            device=torch_device(device),
            resident=resident.value,
            trackers=_trackers(trackers),
            progress=bar,
        )
    out.print(table)


@commands.command("import-student", rich_help_panel=PANEL)
def import_student(
    weights: Annotated[Path, typer.Argument(metavar="FILE", help="A fused checkpoint, or a training file.")],
    dataset: DatasetUrl,
    run: Annotated[Path, typer.Option("--run", metavar="RUN_DIR", help="Folder of the new run.")],
    heads: Annotated[int, typer.Option(min=1, help="Attention heads, which no file tells.")] = 16,
) -> None:
    """Make a run of a student that Orion-Lite published, to evaluate, export or train it on."""
    from student.orion_lite.published import import_student

    imported = import_student(weights, dataset, run, heads=heads)
    out.print(f"{run}: a student of {imported.config.layers} layers, {imported.config.hidden} wide")


@commands.command(rich_help_panel=PANEL)
def evaluate(
    run: RunDir,
    dataset: DatasetUrl,
    split: SplitChoice = Split.VAL,
    device: Device = None,
) -> None:
    """Measure student, teacher and two trivial drivers in open loop."""
    from student.open_loop.evaluate import evaluate

    out.print(evaluate(run, dataset, split.value, device=torch_device(device)))


@commands.command(rich_help_panel=PANEL)
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN_DIR...", help="Folders of training runs.")],
    page: Annotated[
        Path | None, typer.Option("--out", metavar="OUT.html", help="By default in the first run's folder.")
    ] = None,
) -> None:
    """Draw curves, errors and bird's-eye pictures of one run or several on one page."""
    from student.reporting.report import report

    out.print(f"report: {report(runs, page)}")


def _changes(texts: list[str] | None) -> dict[str, str]:
    changes = {}
    for text in texts or ():
        field, equals, value = text.partition("=")
        if not equals:
            raise RequestError(
                f"--set {text!r} sets nothing",
                expected="FIELD=VALUE, a field of student.runs.config.TrainConfig",
                repair="write, for example, --set epochs=5",
            )
        changes[field] = value
    return changes


def _trackers(asked: list[str] | None) -> list[str] | None:
    return [] if asked == ["none"] else asked

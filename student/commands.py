"""Commands of the light stage: students, from latent datasets alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cache_schema.errors import RequestError
from cache_schema.terminal import (
    DatasetUrl,
    Device,
    ProgressBar,
    Split,
    SplitChoice,
    is_first_process,
    out,
    torch_device,
)
from student.loading import Resident
from student.systems import PRESETS

commands = typer.Typer()
PANEL = "Student"


RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder of a training run.")]
WithDatasets = Annotated[
    list[str] | None,
    typer.Option(
        "--with", metavar="OTHER.zarr", help="Another dataset of the same clips, to be joined. Repeatable."
    ),
]
SystemName = Annotated[
    str | None,
    typer.Option(
        metavar="PACKAGE.MODULE:CLASS", help="The run's system, if it is your own: it will be imported."
    ),
]
ResidentChoice = Annotated[
    Resident, typer.Option(help="Keep the training samples in host memory, or on the GPU.")
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="Change the preset: epochs=5, student.layers=4, losses.mimic.weight=2, losses.mimic=off. "
        "Repeatable.",
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
        str, typer.Option(help=f"Configuration: {', '.join(PRESETS)}, or package.module:NAME.")
    ] = "demo",
    changes: Changes = None,
    with_datasets: WithDatasets = None,
    resident: ResidentChoice = "none",
    trackers: Trackers = None,
    device: Device = None,
) -> None:
    """Train a student from a latent dataset. The teacher is never loaded."""
    from student.runs.presets import described
    from student.runs.presets import preset as configuration
    from student.training.train import train

    changed = _changes(changes)
    with ProgressBar("train", "steps") as bar:
        result = train(
            dataset,
            run,
            configuration(preset, changed),
            with_datasets=with_datasets or (),
            device=torch_device(device),
            resident=resident,
            trackers=_trackers(trackers),
            recipe=described(preset, changed),
            progress=bar,
        )
    if is_first_process():
        out.print(f"{run}: {result}")


@commands.command(rich_help_panel=PANEL)
def sweep(
    dataset: DatasetUrl,
    presets: Annotated[list[str], typer.Argument(metavar="PRESET...", help="Configurations, as in `train`.")],
    runs: Annotated[Path, typer.Option("--runs", metavar="DIR", help="Folder with a run for each preset.")],
    changes: Changes = None,
    with_datasets: WithDatasets = None,
    resident: ResidentChoice = "none",
    trackers: Trackers = None,
    device: Device = None,
) -> None:
    """Train and evaluate several configurations, and put them in one table."""
    from student.reporting.sweep import sweep

    with ProgressBar("train", "steps") as bar:
        table = sweep(
            dataset,
            runs,
            presets,
            changes=_changes(changes),
            with_datasets=with_datasets or (),
            device=torch_device(device),
            resident=resident,
            trackers=_trackers(trackers),
            progress=bar,
        )
    if is_first_process():
        out.print(table)


@commands.command("import-student", rich_help_panel=PANEL)
def import_student(
    weights: Annotated[Path, typer.Argument(metavar="FILE", help="A fused checkpoint, or a training file.")],
    dataset: DatasetUrl,
    run: Annotated[Path, typer.Option("--run", metavar="RUN_DIR", help="Folder of the new run.")],
    heads: Annotated[int, typer.Option(min=1, help="Attention heads, which no file records.")] = 16,
) -> None:
    """Make a run of a student that Orion-Lite published, to evaluate, export or train it on."""
    from student.orion_lite.published import import_student

    out.print(str(import_student(weights, dataset, run, heads=heads)))


@commands.command(rich_help_panel=PANEL)
def evaluate(
    run: RunDir,
    dataset: DatasetUrl,
    split: SplitChoice = Split.VAL,
    with_datasets: WithDatasets = None,
    system: SystemName = None,
    device: Device = None,
) -> None:
    """Measure a student: driving ones in open loop, beside the teacher and two trivial policies."""
    from student.runs.evaluate import evaluate

    with ProgressBar("evaluate", "samples") as bar:
        evaluation = evaluate(
            run,
            dataset,
            split.value,
            with_datasets=with_datasets or (),
            system=system,
            device=torch_device(device),
            progress=bar,
        )
    out.print(evaluation)


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
                expected="FIELD=VALUE, a field of student.runs.config:RunConfig",
                repair="write, for example, --set epochs=5",
            )
        changes[field] = value
    return changes


def _trackers(requested: list[str] | None) -> list[str] | None:
    return [] if requested == ["none"] else requested

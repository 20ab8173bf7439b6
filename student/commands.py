"""Commands of the light stage: students, from latent datasets alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cache_schema.errors import RequestError
from cache_schema.terminal import (
    FOUND,
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


@commands.command(rich_help_panel=PANEL)
def drive(
    results: Annotated[
        Path, typer.Option("--out", metavar="RESULTS", help="Folder of results; gone on with if there.")
    ],
    server: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Policy server, as `serve` prints it.")
    ] = None,
    token: Annotated[Path | None, typer.Option(metavar="FILE", help="The server's token.")] = None,
    bench2drive: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of Bench2Drive.")] = None,
    carla: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of CARLA 0.9.15.")] = None,
    python: Annotated[str, typer.Option(help="Python in which Bench2Drive runs.")] = "python3.8",
    routes: Annotated[
        Path | None, typer.Option(metavar="XML", help="Routes. [leaderboard/data/bench2drive220.xml]")
    ] = None,
    agent: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Agent file. [the one that `agent` writes]")
    ] = None,
    evaluator: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND",
            help="Instead of Bench2Drive's evaluator: a command with {routes}, {checkpoint}, {agent}, "
            "{agent_config}, {port}, {traffic_manager_port}, {gpu}.",
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Simulators beside each other.")] = 1,
    gpus: Annotated[
        list[int] | None, typer.Option("--gpu", min=0, help="GPU for simulators. Repeatable. [0]")
    ] = None,
    attempts: Annotated[int, typer.Option(min=1, help="Attempts at a route that crashes.")] = 3,
    stuck_after_s: Annotated[
        float, typer.Option("--stuck-after", min=1, help="Seconds without progress that end an attempt.")
    ] = 900.0,
    backoff_s: Annotated[
        float, typer.Option("--backoff", min=0, help="Seconds before a second attempt; doubled for the next.")
    ] = 30.0,
    check: Annotated[bool, typer.Option("--check", help="Only check what is needed.")] = False,
    start_simulator: Annotated[
        bool, typer.Option(help="Start CARLA once on every GPU before, to see that it runs.")
    ] = True,
) -> None:
    """Drive the routes of Bench2Drive by a policy server; the same command goes on after a stop."""
    from student.serving.address import Address
    from student.supervision.drive import Limits
    from student.supervision.drive import drive as drive_routes
    from student.supervision.evaluator import evaluator_of
    from student.supervision.preflight import preflight
    from student.supervision.server import ServerAddress

    served = None if server is None else ServerAddress(Address.parse(server), token)
    program = evaluator_of(
        bench2drive,
        carla,
        evaluator,
        agent=agent,
        agent_config=served.agent_config if served else "",
        python=python,
    )
    listed = routes or program.folder / "leaderboard/data/bench2drive220.xml"
    found = preflight(
        listed,
        results,
        program,
        server=served,
        workers=workers,
        gpus=gpus or [0],
        start_simulator=start_simulator,
    )
    out.print(found)
    found.raise_errors()
    if check:
        return
    with ProgressBar("drive", "routes") as bar:
        driven = drive_routes(
            listed,
            results,
            program,
            server=served,
            workers=workers,
            gpus=gpus or [0],
            limits=Limits(attempts, stuck_after_s, backoff_s),
            conditions=found.conditions,
            progress=bar,
        )
    out.print(driven)
    if driven.unfinished:
        raise typer.Exit(FOUND)


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

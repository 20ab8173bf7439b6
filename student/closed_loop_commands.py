"""Commands of the closed loop: the agent file, the supervisor of an evaluation, and its score."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cache_schema.terminal import FOUND, ProgressBar, out
from student.closed_loop import Mode
from student.scoring import DEFAULT, Keep

commands = typer.Typer()
PANEL = "Closed loop"

DrivingRun = Annotated[
    str, typer.Argument(metavar="RUN_DIR", help="Folder of a training run; or constant-velocity, or teacher.")
]
DatasetOfRun = Annotated[
    str | None,
    typer.Argument(metavar="DATASET.zarr", help="What it was trained on, or the teacher made."),
]
ResultsFolder = Annotated[
    Path, typer.Option("--out", metavar="RESULTS", help="Folder of results; gone on with if there.")
]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token", metavar="FILE", help="The server's secret, for agents of other machines."),
]
ReplayedClips = Annotated[
    Path | None, typer.Option("--clips", metavar="ROOT", help="Replay the clips of a data root instead.")
]
ListenAt = Annotated[
    str,
    typer.Option(metavar="ADDRESS", help="tcp://HOST:PORT, of which port 0 is a free one; or unix:///PATH."),
]
ModeChoice = Annotated[
    Mode,
    typer.Option(help="What the student is told of the car: as ORION's agent does, or without its errors."),
]


@commands.command(rich_help_panel=PANEL)
def agent(
    bench2drive: Annotated[Path, typer.Argument(metavar="BENCH2DRIVE_DIR", help="Folder of Bench2Drive.")],
) -> None:
    """Write the agent file into a Bench2Drive tree: it asks a policy server what to do."""
    from student.serving.agent_file import write_agent

    out.print(f"written to {write_agent(bench2drive)}")


@commands.command(rich_help_panel=PANEL)
def drive(
    results: ResultsFolder,
    server: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Policy server, as `serve` prints it.")
    ] = None,
    token: TokenFile = None,
    bench2drive: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of Bench2Drive.")] = None,
    carla: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of CARLA 0.9.15.")] = None,
    python: Annotated[str, typer.Option(help="Python in which Bench2Drive runs.")] = "python3.8",
    routes: Annotated[
        Path | None, typer.Option(metavar="XML", help="By default Bench2Drive's bench2drive220.xml.")
    ] = None,
    agent: Annotated[
        Path | None, typer.Option(metavar="FILE", help="By default the file that `agent` writes.")
    ] = None,
    agent_config: Annotated[
        str | None, typer.Option(help="What an agent of your own is told, instead of the server's address.")
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
        list[int] | None, typer.Option("--gpu", min=0, help="GPU for simulators, 0 by default. Repeatable.")
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
    told = agent_config if served is None else served.agent_config
    program = evaluator_of(bench2drive, carla, evaluator, agent=agent, agent_config=told, python=python)
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


@commands.command(rich_help_panel=PANEL)
def score(
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS", help="Folder of Bench2Drive's result files, or one of them.")
    ],
    against: Annotated[
        Path | None, typer.Option(metavar="OTHER", help="Results to compare with, route by route.")
    ] = None,
    routes: Annotated[
        str,
        typer.Option(
            metavar="LIST", help="bench2drive220, bench2drive-0.0.4, dev10, or the evaluation's FILE.xml."
        ),
    ] = DEFAULT,
    junctions: Annotated[
        Path | None,
        typer.Option(
            metavar="TABLE.json", help="Where junctions are, for Traffic_Signs and the mean ability."
        ),
    ] = None,
    metrics: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="SAVE_PATH of the evaluation, for smoothness; by default RESULTS/metrics, if it is there.",
        ),
    ] = None,
    keep: Annotated[
        Keep | None,
        typer.Option(help="Which record counts where a drive has several, in the order of file names."),
    ] = None,
    page: Annotated[
        Path | None, typer.Option("--out", metavar="OUT.html", help="Also write a page with figures.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Score a closed-loop evaluation on Bench2Drive, with intervals; compare it with another one."""
    from student.scoring.comparison import compare
    from student.scoring.score import score

    scored = score(results, routes, junctions=junctions, metrics=metrics, keep=keep)
    found = (
        scored if against is None else compare(scored, score(against, routes, junctions=junctions, keep=keep))
    )
    if page is not None:
        from student.reporting.closed_loop import write_page

        write_page(found, page)
    if as_json:
        out.print(found.model_dump_json(indent=1), soft_wrap=True)
    else:
        out.print(found)

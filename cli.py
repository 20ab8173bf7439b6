"""The command line: groups of commands, and the commands that join two packages."""

from __future__ import annotations

import functools
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cache_schema import commands as dataset_commands
from cache_schema.error_handling import ErrorHandlingGroup
from cache_schema.errors import RequestError
from cache_schema.terminal import (
    FOUND,
    DatasetUrl,
    Device,
    ProgressBar,
    given,
    out,
    torch_device,
    visible,
)
from pipeline import commands as teacher_commands
from pipeline import making_commands
from student import closed_loop_commands
from student import commands as student_commands

if TYPE_CHECKING:
    from collections.abc import Sequence

    from student.serving.policy import Policy


app = typer.Typer(
    cls=ErrorHandlingGroup,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Run a large driving teacher once, and train students from its cached features.",
)
for group in (teacher_commands, making_commands, dataset_commands, student_commands, closed_loop_commands):
    app.add_typer(group.commands)


@app.command(rich_help_panel=teacher_commands.PANEL)
def parity(
    recording: Annotated[Path, typer.Argument(metavar="RECORDING_DIR", help="Folder of a recording.")],
    device: Device = None,
    precision: teacher_commands.PrecisionChoice = teacher_commands.Precision.FP32,
    tolerance: Annotated[
        float | None, typer.Option(help="Largest difference allowed. [derived from the precision]")
    ] = None,
) -> None:
    """Replay recorded vectors of the reference model through this port, stage by stage."""
    from pipeline.teachers.orion.parity import replay
    from student.orion_lite.planner import planner_stages

    with ProgressBar("parity", "frames") as bar:
        report = replay(
            recording,
            device=torch_device(device),
            precision=precision,
            tolerance=tolerance,
            planner=planner_stages,
            progress=bar,
        )
    out.print(report)
    if not report.passes:
        raise typer.Exit(FOUND)


@app.command(rich_help_panel=dataset_commands.PANEL)
def inspect(
    dataset: DatasetUrl,
    clips: Annotated[bool, typer.Option("--clips", help="Also a row a clip.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    run: Annotated[bool, typer.Option("--run", help="How its extraction went, by its log.")] = False,
) -> None:
    """Show who made a dataset, what it holds, and how much of it there is."""
    if run:
        from pipeline.extraction.log import log_path, summarise

        out.print(summarise(log_path(Path(dataset))), soft_wrap=True)
        return
    from cache_schema.describe.inspect import inspect

    summary = inspect(dataset, clips=clips)
    if as_json:
        print(visible(summary.model_dump_json(indent=2)))  # noqa: T201
    else:
        out.print(summary, soft_wrap=True)


@app.command(rich_help_panel=dataset_commands.PANEL)
def show(
    dataset: DatasetUrl,
    picture: Annotated[Path, typer.Argument(metavar="OUT.png", help="Picture to write.")],
    clip: Annotated[str, typer.Option(help="Name of a clip, as `inspect --clips` lists it.")],
    frame: Annotated[int, typer.Option(min=0, help="Place of the frame in the clip, from 0.")] = 0,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="ROOT", help="Raw clips, for the camera images.")
    ] = None,
) -> None:
    """Draw one frame from above, with its planning token and camera images."""
    from student.reporting.show import show

    cameras = None
    if data is not None:
        from pipeline.bench2drive.camera_images import camera_images

        cameras = functools.partial(camera_images, data)
    out.print(f"written to {show(dataset, clip, frame, picture, cameras=cameras)}")


@app.command(rich_help_panel=student_commands.PANEL)
def export(
    run: student_commands.RunDir,
    target: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="To write: a file .safetensors; .onnx; .pth, fused with the teacher's vision stack; "
            "or, without an ending, a folder that transformers loads.",
        ),
    ],
    dataset: Annotated[
        str | None, typer.Option(metavar="DATASET.zarr", help="What it was trained on; not for weights.")
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Orion.pth, for .pth.")] = None,
    with_datasets: student_commands.WithDatasets = None,
    system: student_commands.SystemName = None,
) -> None:
    """Write the student in a form that others load."""
    from student.runs.export import Exported, export

    if target.suffix != ".pth":
        exported = export(run, target, dataset=dataset, with_datasets=with_datasets or (), system=system)
    else:
        from pipeline.teachers.orion.checkpoints.fuse import fuse
        from student.orion_lite.published import read_run

        orion = given(checkpoint, "--checkpoint", target)
        # The teacher's vision stack is read by one package, the student by the other.
        reached, weights = read_run(run)
        teacher, described = reached.trained_on.teacher, reached.model_dump_json()
        with ProgressBar("check", "tensors") as bar:
            count = fuse(orion, weights, target, teacher=teacher, described=described, progress=bar)
        exported = Exported(target, f"{count} tensors")
    out.print(str(exported))


Checkpoint = Annotated[
    Path | None, typer.Option("--checkpoint", metavar="ORION", help="The teacher's weights, if it has any.")
]
Teacher = Annotated[str | None, typer.Option(metavar="MODULE:NAME", help="The teacher, if it is your own.")]
Every = Annotated[int, typer.Option(min=1, help="Plan at every so manyth of the 20 ticks a second.")]


def driving_policy(
    run: str,
    dataset: str | None,
    slots: int,
    device: str | None,
    *,
    checkpoint: Path | None,
    teacher: str | None,
    with_datasets: Sequence[str] | None,
    system: str | None,
) -> Policy:
    """Return what drives: a run's student behind its teacher's vision, that teacher, or constant velocity."""
    from student.serving.policy import CONSTANT_VELOCITY, TEACHER, ConstantVelocity

    if run == CONSTANT_VELOCITY:
        return ConstantVelocity(slots)
    from cache_schema.dataset.join import open_dataset
    from cache_schema.vocabulary.orion import PLANNING_TOKEN
    from pipeline.perception.loading import open_perception
    from student.device import chosen
    from student.orion_lite.policies import DrivingTeacher
    from student.policy import policy_of
    from student.runs.trained import load_trained
    from student.serving.student_policy import StudentPolicy, identity_of

    if dataset is None:
        raise RequestError(
            f"{run} needs a dataset to drive, and none was named",
            expected="the dataset that the student was trained on, or that the teacher made",
            repair=f"name it behind: {run} DATASET.zarr",
        )
    joined = with_datasets or ()
    if run == TEACHER:
        opened, driver = open_dataset(dataset, *joined), DrivingTeacher()
        made_by = opened.holder(PLANNING_TOKEN).manifest.teacher
        who = {"system": "orion", "teacher": f"{made_by.name} ({made_by.weights})"}
        model = driver.planner(opened)
    else:
        trained = load_trained(Path(run), dataset, with_datasets=joined, system=system)
        opened, driver, model, who = trained.dataset, trained.system, trained.model, identity_of(trained)
    read, place = policy_of(driver, model).features, chosen(torch_device(device))
    with ProgressBar("load", "tensors") as bar:
        vision = open_perception(opened, read, checkpoint, teacher=teacher, device=str(place), progress=bar)
    return StudentPolicy(vision, driver, model, slots=slots, device=place, identity=who)


@app.command(rich_help_panel=closed_loop_commands.PANEL)
def serve(
    run: closed_loop_commands.DrivingRun,
    dataset: closed_loop_commands.DatasetOfRun = None,
    checkpoint: Checkpoint = None,
    at: closed_loop_commands.ListenAt = "tcp://127.0.0.1:2100",
    slots: Annotated[int, typer.Option(min=1, help="Drives at once.")] = 1,
    mode: closed_loop_commands.ModeChoice = "parity",
    every: Every = 1,
    token: closed_loop_commands.TokenFile = None,
    log: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="Where to append what happens.")
    ] = None,
    teacher: Teacher = None,
    with_datasets: student_commands.WithDatasets = None,
    system: student_commands.SystemName = None,
    device: Device = None,
) -> None:
    """Let a student, or its teacher, drive: serve its controls to agents in simulators."""
    from student.serving.address import Address
    from student.serving.server import serve

    address = Address.parse(at)
    more = {"checkpoint": checkpoint, "teacher": teacher, "with_datasets": with_datasets, "system": system}
    policy = driving_policy(run, dataset, slots, device, **more)
    serve(policy, address, mode=mode, every=every, token=token, log=log)


@app.command(rich_help_panel=closed_loop_commands.PANEL)
def rehearse(
    run: closed_loop_commands.DrivingRun,
    results: closed_loop_commands.ResultsFolder,
    dataset: closed_loop_commands.DatasetOfRun = None,
    checkpoint: Checkpoint = None,
    clips: closed_loop_commands.ReplayedClips = None,
    scenes: Annotated[int, typer.Option(min=1, help="Drive in so many synthetic scenes, a toy.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the scenes.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Drives beside each other.")] = 1,
    mode: closed_loop_commands.ModeChoice = "parity",
    every: Every = 1,
    teacher: Teacher = None,
    with_datasets: student_commands.WithDatasets = None,
    system: student_commands.SystemName = None,
    device: Device = None,
) -> None:
    """Drive without CARLA, by the same server, agent file and supervisor: in a toy world, or along clips."""
    from pipeline.bench2drive.rehearsal.__main__ import main as rehearsal
    from student.reporting.drives import write_page
    from student.scoring.score import score
    from student.serving.address import Address
    from student.serving.agent_file import agent_source
    from student.serving.server import serving
    from student.supervision.drive import drive
    from student.supervision.evaluator import own_command
    from student.supervision.server import ServerAddress

    more = {"checkpoint": checkpoint, "teacher": teacher, "with_datasets": with_datasets, "system": system}
    policy = driving_policy(run, dataset, workers, device, **more)
    worlds = [f"--scenes={scenes}", f"--seed={seed}"] if clips is None else [f"--clips={clips.absolute()}"]
    results.mkdir(parents=True, exist_ok=True)
    routes, drives = results / "routes.xml", results.absolute() / "drives"
    if status := rehearsal([*worlds, f"--write-routes={routes}"]):
        raise typer.Exit(status)
    program = [sys.executable, "-m", "pipeline.bench2drive.rehearsal", *worlds, f"--drives={drives}"]
    program += ["--routes={routes}", "--checkpoint={checkpoint}", "--agent={agent}"]
    program += ["--agent-config={agent_config}"]
    loopback = Address.parse("tcp://127.0.0.1:0")
    with (
        agent_source() as agent,
        serving(policy, loopback, mode=mode, every=every, allow_replay=True) as address,
        ProgressBar("rehearse", "routes") as bar,
    ):
        server = ServerAddress(address)
        evaluator = own_command(shlex.join(program), agent=agent, agent_config=server.agent_config)
        conditions = {"identity": policy.identity, "mode": mode, "every": every, "rehearsal": worlds}
        driven = drive(
            routes, results, evaluator, server=server, workers=workers, conditions=conditions, progress=bar
        )
    out.print(driven)
    out.print(score(results, str(routes)))
    out.print(f"drives from above: {write_page(drives, results / 'drives.html')}")
    if driven.unfinished:
        raise typer.Exit(FOUND)


if __name__ == "__main__":
    app()

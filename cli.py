"""The command line: errors in words, three groups of commands, and the commands that join two packages."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cache_schema import commands as dataset_commands
from cache_schema.errors import TeachonceError
from cache_schema.terminal import FOUND, INTERRUPTED, USER_ERROR, DatasetUrl, err, given, out, table
from pipeline import commands as teacher_commands
from student import commands as student_commands


class ErrorsInWords(TyperGroup):
    """Shows what a user can mend as three lines instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except TeachonceError as error:
            err.print(str(error), soft_wrap=True)
            raise typer.Exit(USER_ERROR) from error
        except OSError as error:
            if error.filename is None:
                raise
            err.print(f"{error.filename}: {error.strerror}", soft_wrap=True)
            err.print("  expected: a file or folder that can be read, or made where it is to be written")
            err.print("  to do:    correct the path, or who may use it")
            raise typer.Exit(USER_ERROR) from error
        except KeyboardInterrupt as error:
            err.print("stopped; what was committed is safe, and the same command goes on from there")
            raise typer.Exit(INTERRUPTED) from error


app = typer.Typer(
    cls=ErrorsInWords,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Run a big driving teacher once; train students from what it said, for ever after.",
)
for group in (teacher_commands, dataset_commands, student_commands):
    app.add_typer(group.commands)


@app.command(rich_help_panel=teacher_commands.PANEL)
def parity(
    recording: Annotated[Path, typer.Argument(metavar="RECORDING_DIR", help="Folder of a recording.")],
    tolerance: Annotated[float, typer.Option(help="Largest absolute difference allowed.")] = 1e-4,
) -> None:
    """Replay recorded vectors of the reference model through our port, stage by stage."""
    from pipeline.teachers.orion.parity import replay
    from student.orion_lite.planner import planner_stages

    # The planner is part of the student, which trains it; only this file may join the two packages.
    report = replay(recording, tolerance=tolerance, planner=planner_stages)
    shown = table("frame", "stage", "largest difference", "")
    for row in report.rows:
        difference = "not computed" if row.difference is None else f"{row.difference:.1e}"
        verdict = "beyond tolerance" if row in report.failures else ""
        shown.add_row(str(row.frame), row.stage, difference, verdict)
    out.print(shown)
    out.print(
        f"{len(report.failures)} of {len(report.rows)} rows beyond {tolerance:g}; "
        "positions are compared as fractions of the detection range"
    )
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
        from pipeline.extraction.log import beside, summarise

        out.print(summarise(beside(Path(dataset))), soft_wrap=True)
        return
    from cache_schema.describe.inspect import inspect

    summary = inspect(dataset, clips=clips)
    if as_json:
        print(summary.model_dump_json(indent=2))  # noqa: T201
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
    """Draw one frame from above, with its planning token, and what the cameras saw."""
    from student.reporting.show import show

    cameras = None
    if data is not None:
        # Raw images are the one wing's to read, the picture is the other's.
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
            help="File to write: .safetensors; .onnx; or .pth, fused with the teacher's vision stack.",
        ),
    ],
    dataset: Annotated[
        str | None, typer.Option(metavar="DATASET.zarr", help="What it was trained on, for .onnx.")
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Orion.pth, for .pth.")] = None,
    with_datasets: student_commands.WithDatasets = None,
    system: student_commands.SystemName = None,
) -> None:
    """Write the student as a file for inference."""
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
        count = fuse(orion, weights, target, teacher=teacher, described=described)
        exported = Exported(target, f"{count} tensors")
    out.print(str(exported))


if __name__ == "__main__":
    app()

"""The front door: parses, then calls one function in one room. Wings are imported inside commands."""

from __future__ import annotations

import enum
import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from cache_schema.errors import RequestError, TeachonceError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipeline.selection import Failure

FOUND, MENDABLE, INTERRUPTED = 1, 2, 130
"""Exit codes: a check found something; the user can mend it; Ctrl-C. A bug keeps its traceback."""

# Nothing that is shown comes from us alone: brackets in a path or a reason are not markup.
out = Console(markup=False, highlight=False)
err = Console(markup=False, highlight=False, stderr=True)


class FrontDoor(TyperGroup):
    """Shows what a user can mend as three lines instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except TeachonceError as error:
            err.print(str(error), soft_wrap=True)
            raise typer.Exit(MENDABLE) from error
        except OSError as error:
            if error.filename is None:
                raise
            err.print(f"{error.filename}: {error.strerror}", soft_wrap=True)
            err.print("  expected: a file or folder that can be read, or made where it is to be written")
            err.print("  to do:    correct the path, or who may use it")
            raise typer.Exit(MENDABLE) from error
        except KeyboardInterrupt as error:
            err.print("stopped; what was committed is safe, and the same command goes on from there")
            raise typer.Exit(INTERRUPTED) from error


app = typer.Typer(
    cls=FrontDoor,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Run a big driving teacher once; train students from what it said, for ever after.",
)

TEACHER, DATASET, STUDENT = "Teacher", "Dataset", "Student"


class Split(enum.StrEnum):
    """Sides of the train/validation split."""

    TRAIN = "train"
    VAL = "val"
    ALL = "all"


class Precision(enum.StrEnum):
    """Numbers that a teacher computes in."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"


class Quantize(enum.StrEnum):
    """Quantisations of a language model."""

    INT8 = "int8"
    NF4 = "nf4"


DatasetPath = Annotated[Path, typer.Argument(metavar="DATASET.zarr", help="Folder of the latent dataset.")]
RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder of a training run.")]
DataRoot = Annotated[
    Path, typer.Option("--data", metavar="ROOT", help="Folder of the unpacked clips, or around v1/.")
]
TeacherName = Annotated[str, typer.Option("--teacher", help="Preset, or your own as package.module:NAME.")]
Checkpoint = Annotated[
    Path | None,
    typer.Option(help="Orion.pth, or a folder made by `convert`. Without it weights are random."),
]
SplitChoice = Annotated[Split, typer.Option("--split", help="Which clips.")]
Slots = Annotated[
    int,
    typer.Option(
        min=1, help="Clips in lock-step on a worker; a clip's place in the data root decides its slot."
    ),
]
PrecisionChoice = Annotated[
    Precision, typer.Option("--precision", help="In which numbers the teacher computes.")
]
QuantizeChoice = Annotated[
    Quantize | None, typer.Option("--quantize", help="Quantise the language model with bitsandbytes.")
]
Device = Annotated[str | None, typer.Option(help="Torch device; a GPU if there is one.")]


@app.command("demo-data", rich_help_panel=TEACHER)
def demo_data(
    root: Annotated[Path, typer.Argument(help="Folder to write to.")],
    clips: Annotated[int, typer.Option(min=1, help="Number of clips.")] = 8,
    frames: Annotated[int, typer.Option(min=1, help="Frames a clip, at 10 Hz.")] = 60,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal bytes.")] = 0,
) -> None:
    """Write synthetic clips in Bench2Drive's own layout."""
    from pipeline.bench2drive.synthetic import write_demo_data

    write_demo_data(
        root, clips=clips, frames=frames, seed=seed, workers=os.cpu_count() or 1, on_clip=err.print
    )
    out.print(f"{clips} clips of {frames} frames in {root}")


@app.command(rich_help_panel=TEACHER)
def convert(
    checkpoint: Annotated[Path, typer.Argument(metavar="Orion.pth", help="The released checkpoint.")],
    folder: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="Folder to write to.")],
    teacher: TeacherName = "orion-7b",
) -> None:
    """Write a checkpoint as sharded safetensors, adapters merged, for fast and safe starts."""
    from pipeline.teachers import teacher_preset

    teacher_preset(teacher).convert(checkpoint, folder)
    out.print(f"converted to {folder}")


@app.command(rich_help_panel=TEACHER)
def plan(
    dataset: DatasetPath,
    data: DataRoot,
    teacher: TeacherName = "orion-tiny",
    checkpoint: Checkpoint = None,
    split: SplitChoice = Split.ALL,
    slots: Slots = 4,
    workers: Annotated[int, typer.Option(min=1, help="GPUs to count on.")] = 1,
    measure: Annotated[bool, typer.Option("--measure", help="Look at a few real frames first.")] = False,
    precision: PrecisionChoice = Precision.FP32,
    quantize: QuantizeChoice = None,
    device: Device = None,
) -> None:
    """Show what an extraction would cost. Writes nothing."""
    from pipeline.plan import plan
    from pipeline.selection import select_clips
    from pipeline.teachers import load_teacher, teacher_preset

    selection = select_clips(data, split.value)
    rate = None
    if measure:
        from pipeline.measure import frames_a_second

        loaded = load_teacher(
            teacher, checkpoint, device=_device(device), precision=precision, quantize=quantize
        )
        rate = frames_a_second(selection, loaded, slots=slots)
    cost = plan(dataset, selection, teacher_preset(teacher), measured=rate)
    table = Table(
        "feature", "one frame", "bytes a frame", "all frames", title=str(dataset), title_justify="left"
    )
    for spec in cost.features:
        table.add_row(
            spec.name, f"{spec.dtype}{spec.shape}", f"{spec.nbytes:,}", _size(spec.nbytes * cost.frames)
        )
    table.add_section()
    table.add_row("together", "", f"{cost.nbytes // max(cost.frames, 1):,}", _size(cost.nbytes))
    out.print(table)
    out.print(f"{cost.clips} clips, {cost.frames:,} frames, {cost.files:,} files")
    out.print(f"{cost.committed_clips} clips and {cost.committed_frames:,} frames are already there")
    hours = cost.hours_left(workers)
    if hours is None:
        out.print("time: not measured; use --measure, or plan again once a clip is committed")
    else:
        out.print(
            f"{cost.frames_a_second:.2f} frames/s a worker: {hours:.2f} hours left on {workers}, "
            f"{hours * workers:.2f} worker-hours"
        )
    _left_out(selection.failures)


@app.command(rich_help_panel=TEACHER)
def extract(
    dataset: DatasetPath,
    data: DataRoot,
    teacher: TeacherName = "orion-tiny",
    checkpoint: Checkpoint = None,
    split: SplitChoice = Split.ALL,
    slots: Slots = 4,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Start as many processes, one a GPU. Without: in this one."),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="tcp://HOST:PORT", help="Join a dask cluster that is there.")
    ] = None,
    precision: PrecisionChoice = Precision.FP32,
    quantize: QuantizeChoice = None,
    device: Device = None,
) -> None:
    """Run the teacher over every frame, once. Safe to stop and to run again."""
    from pipeline.selection import select_clips
    from pipeline.teachers import load_teacher

    selection = select_clips(data, split.value)
    load = functools.partial(load_teacher, teacher, checkpoint, precision=precision, quantize=quantize)
    if workers is None and scheduler is None:
        from pipeline.extract import extract

        report = extract(selection, load(device=_device(device)), dataset, slots=slots)
    else:
        from pipeline.cluster import connect, extract_on_cluster

        with connect(workers, scheduler) as client:
            # Each worker finds its own device: this machine need not have a GPU.
            load = functools.partial(load, device=device)
            report = extract_on_cluster(selection, load, dataset, client, slots=slots)
    out.print(
        f"{len(report.committed)} clips and {report.frames:,} frames in {report.wall_s:.1f} s "
        f"({report.frames / max(report.wall_s, 1e-9):.1f} frames/s); "
        f"{len(report.present)} clips were already there"
    )
    worked_s = max(report.wall_s * report.workers, 1e-9)
    out.print(
        f"the teacher waited {report.images_s / worked_s:.0%} of the time for images "
        f"and {report.disk_s / worked_s:.0%} for the disk"
    )
    if report.gave_up:
        err.print("gave up after three failures in a row; other clips were not tried")
    _left_out(report.failed)


@app.command(rich_help_panel=TEACHER)
def parity(
    recording: Annotated[Path, typer.Argument(metavar="RECORDING_DIR", help="Folder of a recording.")],
    tolerance: Annotated[float, typer.Option(help="Largest absolute difference allowed.")] = 1e-4,
) -> None:
    """Replay recorded vectors of the reference model through our port, stage by stage."""
    from pipeline.parity import replay
    from student.models.planner import planner_stages

    # The planner lives in the student's wing, which trains it; only the front door may introduce the two.
    report = replay(recording, tolerance=tolerance, planner=planner_stages)
    table = Table("frame", "stage", "largest difference", "")
    for row in report.rows:
        difference = "not computed" if row.difference is None else f"{row.difference:.1e}"
        verdict = "beyond tolerance" if row in report.failures else ""
        table.add_row(str(row.frame), row.stage, difference, verdict)
    out.print(table)
    out.print(
        f"{len(report.failures)} of {len(report.rows)} rows beyond {tolerance:g}; "
        "positions are compared as fractions of the detection range"
    )
    if not report.passes:
        raise typer.Exit(FOUND)


@app.command(rich_help_panel=DATASET)
def inspect(
    dataset: DatasetPath,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    run: Annotated[bool, typer.Option("--run", help="How its extraction went, as the log tells.")] = False,
) -> None:
    """Show who made a dataset, what it holds, and how much of it there is."""
    from cache_schema.inspect import inspect

    if run:
        _show_log(dataset)
        return
    summary = inspect(dataset)
    if as_json:
        print(summary.model_dump_json(indent=2))  # noqa: T201
        return
    teacher, data = summary.manifest.teacher, summary.manifest.data
    splits = ", ".join(f"{count} {split}" for split, count in sorted(summary.clips_by_split.items()))
    facts = {
        "dataset": summary.path,
        "teacher": f"{teacher.name}, {teacher.precision}, weights {teacher.weights}",
        "data": f"{data.name} at {data.frame_rate_hz:g} Hz, licence {data.licence}",
        "clips": f"{summary.clips} ({splits or 'none yet'}), {summary.frames:,} frames",
        "stored": f"{_size(summary.stored_bytes)}, and {_size(summary.asset_bytes)} of assets",
        "format": str(summary.manifest.format_version),
    }
    for name, value in facts.items():
        out.print(f"{name:<8} {value}", soft_wrap=True)
    table = Table("feature", "role", "one frame", "unit", "stored")
    for spec in summary.features:
        shape = f"{spec.dtype}{spec.shape}"
        table.add_row(spec.name, spec.role, shape, spec.unit, _size(spec.stored_bytes))
    out.print(table)


def _show_log(dataset: Path) -> None:
    from pipeline.runlog import beside, summarise

    told = summarise(beside(dataset))
    busy_s = told.busy_s or 1.0
    out.print(
        f"{told.runs} runs, {told.clips} clips, {told.frames:,} frames by {len(told.workers)} workers; "
        f"{told.retries} retries after a worker died"
    )
    out.print(
        f"workers were busy for {told.busy_s:.1f} s: {told.teacher_s / busy_s:.0%} teacher, "
        f"{told.images_s / busy_s:.0%} waiting for images, {told.disk_s / busy_s:.0%} waiting for the disk"
    )
    slowest = Table("slowest clips", "frames/s")
    for clip, rate in told.slowest:
        slowest.add_row(clip, f"{rate:.2f}")
    out.print(slowest)
    if told.failures:
        failed = Table("clip", "why it was left out")
        for clip, reason in told.failures.items():
            failed.add_row(clip, reason)
        out.print(failed)


@app.command(rich_help_panel=DATASET)
def verify(
    dataset: DatasetPath,
    quick: Annotated[bool, typer.Option("--quick", help="Compare sizes only, not digests.")] = False,
) -> None:
    """Check every byte against the ledger and every array against the manifest."""
    from rich.progress import Progress

    from cache_schema.store import LatentDataset
    from cache_schema.verify import verify

    with Progress(console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task("verify", total=len(LatentDataset.open(dataset).clips))
        found = verify(dataset, quick=quick, on_clip=lambda _: progress.advance(task))
    looked = f"{found.clips} clips, {found.frames:,} frames, {_size(found.nbytes)}"
    if not found.problems:
        out.print(f"{looked}: all as written")
        return
    table = Table("clip", "feature", "what is wrong", title=f"{looked}: {len(found.problems)} problems")
    for problem in found.problems:
        table.add_row(problem.clip or "(dataset)", problem.feature or "", problem.what)
    out.print(table)
    raise typer.Exit(FOUND)


@app.command(rich_help_panel=DATASET)
def compare(
    first: Annotated[Path, typer.Argument(metavar="A.zarr", help="The dataset to measure against.")],
    second: Annotated[Path, typer.Argument(metavar="B.zarr", help="The same clips, made otherwise.")],
) -> None:
    """Show how far two datasets of the same clips are apart, such as by fp32 and nf4 teachers."""
    from cache_schema.compare import compare

    found = compare(first, second)
    table = Table("feature", "relative error", "cosine", "largest difference")
    for row in found.features:
        table.add_row(
            row.feature, f"{row.relative_error:.2e}", f"{row.cosine:.6f}", f"{row.largest_difference:.2e}"
        )
    out.print(table)
    out.print(f"{found.frames:,} frames of the {len(found.clips)} clips that both hold")


@app.command(rich_help_panel=STUDENT)
def train(
    dataset: DatasetPath,
    run: Annotated[
        Path, typer.Option("--run", metavar="RUN_DIR", help="Folder of the run; resumed if there.")
    ],
    preset: Annotated[
        str, typer.Option(help="Recipe: orion-lite (released), demo (small), or package.module:NAME.")
    ] = "demo",
    device: Device = None,
) -> None:
    """Train a student from what the teacher said. The teacher is never loaded."""
    from student.config import preset as recipe
    from student.train import train

    result = train(dataset, run, recipe(preset), device=_device(device))
    out.print(f"{run}: {result.epoch} epochs, {result.step} steps")


@app.command(rich_help_panel=STUDENT)
def evaluate(
    run: RunDir,
    dataset: DatasetPath,
    split: SplitChoice = Split.VAL,
    device: Device = None,
) -> None:
    """Measure the open-loop error of student, teacher and two trivial drivers."""
    from student.evaluate import evaluate

    out.print(evaluate(run, dataset, split.value, device=_device(device)))


@app.command(rich_help_panel=STUDENT)
def export(
    run: RunDir,
    target: Annotated[Path, typer.Argument(metavar="OUT.safetensors", help="File to write.")],
) -> None:
    """Write the student's weights as one safetensors file."""
    from student.export import export

    export(run, target)
    out.print(f"exported to {target}")


@app.command(rich_help_panel=STUDENT)
def report(run: RunDir) -> None:
    """Draw loss curves and bird's-eye pictures of a run on one page."""
    from student.report import report

    out.print(f"report: {report(run)}")


def _device(name: str | None) -> str:
    """The device that was asked for, if it is there; else the best there is."""
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise RequestError(
            f"the device {name!r} cannot be used: {str(error).splitlines()[0]}",
            expected="cpu, or cuda on a machine with a GPU and a build of torch for it",
            repair="name another device, or none",
        ) from error
    return name


def _left_out(failures: Iterable[Failure]) -> None:
    """Show the clips that were left out, and end with the code that says so."""
    table = Table("clip", "why it was left out", "to do")
    for failure in failures:
        table.add_row(failure.clip, failure.reason, failure.repair)
    if table.row_count:
        err.print(table)
        raise typer.Exit(MENDABLE)


def _size(nbytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 1000:
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:.3g} TB"


if __name__ == "__main__":
    app()

"""The front door: parses, then calls one function in one room. Wings are imported inside commands."""

from __future__ import annotations

import contextlib
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
    from collections.abc import Generator, Iterable

    from rich.progress import Progress, TaskID

    from cache_schema.dataset.copy_clips import Copied
    from cache_schema.integrity.verify import Problem
    from cache_schema.sharing.pull import LeftOut
    from cache_schema.sharing.subset import ClipFilter
    from pipeline.source import Failure

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


class Resident(enum.StrEnum):
    """Where training frames stay."""

    NONE = "none"
    RAM = "ram"
    DEVICE = "device"


DatasetPath = Annotated[Path, typer.Argument(metavar="DATASET.zarr", help="Folder of the latent dataset.")]
DatasetPlace = Annotated[
    str, typer.Argument(metavar="DATASET.zarr", help="Folder or URL of the latent dataset.")
]
SourcePath = Annotated[Path, typer.Argument(metavar="IN.zarr", help="The dataset to read; it stays.")]
TargetPath = Annotated[Path, typer.Argument(metavar="OUT.zarr", help="The dataset to write.")]
Url = Annotated[
    str,
    typer.Argument(metavar="URL", help="hf://datasets/ORG/NAME, s3://..., gs://..., https://..., file://..."),
]
Pattern = Annotated[str | None, typer.Option(metavar="PATTERN", help="With * and ?, in quotes.")]
ClipPattern = Annotated[
    str | None, typer.Option("--clips", metavar="PATTERN", help="Names of clips, with * and ?, in quotes.")
]
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
Device = Annotated[str | None, typer.Option(help="Torch device; a GPU if there is one.")]


@app.command("demo-data", rich_help_panel=TEACHER)
def demo_data(
    root: Annotated[Path, typer.Argument(help="Folder to write to.")],
    clips: Annotated[int, typer.Option(min=1, help="Number of clips.")] = 12,
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
    from pipeline.extraction.estimate import plan
    from pipeline.source import select_clips
    from pipeline.teachers import load_teacher, teacher_preset

    selection = select_clips(data, split.value)
    rate = None
    if measure:
        from pipeline.extraction.measure import frames_a_second

        loaded = load_teacher(
            teacher, checkpoint, device=_device(device), precision=precision, quantize=quantize
        )
        rate = frames_a_second(selection, loaded, slots=slots)
    cost = plan(dataset, selection, teacher_preset(teacher), measured=rate)
    table = _table("feature", "one frame", "bytes a frame", "all frames", title=str(dataset))
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
    from pipeline.source import select_clips
    from pipeline.teachers import load_teacher

    selection = select_clips(data, split.value)
    load = functools.partial(load_teacher, teacher, checkpoint, precision=precision, quantize=quantize)
    if workers is None and scheduler is None:
        from pipeline.extraction.run import extract

        report = extract(selection, load(device=_device(device)), dataset, slots=slots)
    else:
        from pipeline.extraction.cluster import connect, extract_on_cluster

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
    from pipeline.teachers.orion.parity import replay
    from student.orion_lite.planner import planner_stages

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
    dataset: DatasetPlace,
    clips: Annotated[bool, typer.Option("--clips", help="Also a row a clip.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    run: Annotated[bool, typer.Option("--run", help="How its extraction went, as the log tells.")] = False,
) -> None:
    """Show who made a dataset, what it holds, and how much of it there is."""
    from cache_schema.describe.inspect import inspect

    if run:
        _show_log(Path(dataset))
        return
    summary = inspect(dataset, clips=clips)
    if as_json:
        print(summary.model_dump_json(indent=2))  # noqa: T201
        return
    teacher, data = summary.manifest.teacher, summary.manifest.data
    splits = ", ".join(f"{count} {split}" for split, count in summary.clips_by_split.items())
    facts = {
        "dataset": summary.path,
        "teacher": f"{teacher.name}, {teacher.precision}, weights {teacher.weights}",
        "data": f"{data.name} at {data.frame_rate_hz:g} Hz, licence {data.licence}",
        "clips": f"{summary.clips} ({splits or 'none yet'}), {summary.frames:,} frames",
        "towns": ", ".join(f"{count} {town}" for town, count in summary.clips_by_town.items()),
        "stored": f"{_size(summary.stored_bytes)}, and {_size(summary.asset_bytes)} of assets",
        "format": str(summary.manifest.format_version),
    }
    tokens = summary.vision_tokens
    if tokens is not None and tokens.ratio is not None:
        facts["tokens"] = (
            f"{_size(tokens.stored_bytes)} where full width takes {_size(tokens.logical_bytes)}: "
            f"{tokens.ratio:.1f} times less"
        )
    for name, value in facts.items():
        out.print(f"{name:<8} {value}", soft_wrap=True)
    table = _table("feature", "role", "one frame", "unit", "stored", "ratio")
    for spec in summary.features:
        encoded = "" if spec.encoding == "full" else f"\nas {spec.encoding}"
        table.add_row(
            spec.name,
            spec.role,
            f"{spec.dtype}{spec.shape}{encoded}",
            spec.unit,
            _size(spec.stored_bytes),
            "" if spec.ratio is None else f"{spec.ratio:.2f}",
        )
    out.print(table)
    if summary.clip_table is not None:
        out.print("split frames   stored  made in  clip")
        for clip in summary.clip_table:
            numbers = f"{clip.split:<5} {clip.frames:>6} {_size(clip.stored_bytes):>8} {clip.wall_s:>6.1f} s"
            out.print(f"{numbers}  {clip.name}", soft_wrap=True)


def _show_log(dataset: Path) -> None:
    from pipeline.extraction.log import beside, summarise

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
    slowest = _table("slowest clips", "frames/s")
    for clip, rate in told.slowest:
        slowest.add_row(clip, f"{rate:.2f}")
    out.print(slowest)
    if told.failures:
        failed = _table("clip", "why it was left out")
        for clip, reason in told.failures.items():
            failed.add_row(clip, reason)
        out.print(failed)


@app.command(rich_help_panel=DATASET)
def show(
    dataset: DatasetPlace,
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


@app.command(rich_help_panel=DATASET)
def verify(
    dataset: DatasetPath,
    quick: Annotated[
        bool, typer.Option("--quick", help="Look at names, sizes and metadata, not at digests.")
    ] = False,
) -> None:
    """Check every byte against the ledger and every array against the manifest."""
    from cache_schema.dataset.reader import LatentDataset
    from cache_schema.integrity.verify import verify

    with _progress("verify", len(LatentDataset.open(dataset).clips)) as advance:
        found = verify(dataset, quick=quick, on_clip=lambda _: advance(1))
    looked = f"{found.clips} clips, {found.frames:,} frames, {_size(found.nbytes)}"
    if not found.problems:
        out.print(f"{looked}: all as written")
        return
    _show_problems(f"{looked}: {len(found.problems)} problems", found.problems)
    raise typer.Exit(FOUND)


@app.command(rich_help_panel=DATASET)
def repair(
    dataset: DatasetPath,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
) -> None:
    """Put bad clips aside, so that the next extraction makes exactly these again."""
    from cache_schema.integrity.repair import repair

    done = repair(dataset, dry_run=dry_run)
    would = "would be " if dry_run else ""
    for clip in done.quarantined:
        out.print(f"{would}put aside: {clip}")
    for name in done.cleared:
        out.print(f"{would}cleared away: {name}")
    if not done.quarantined and not done.left:
        out.print(f"{done.verification.clips} clips: all as written")
    if done.left:
        _show_problems("what no repair can mend; fetch these files again", done.left)
        raise typer.Exit(FOUND)


def _show_problems(title: str, problems: Iterable[Problem]) -> None:
    table = _table("clip", "feature", "what is wrong", title=title)
    for problem in problems:
        table.add_row(problem.clip or "(dataset)", problem.feature or "", problem.what)
    out.print(table)


@app.command(rich_help_panel=DATASET)
def compare(
    first: Annotated[Path, typer.Argument(metavar="A.zarr", help="The dataset to measure against.")],
    second: Annotated[Path, typer.Argument(metavar="B.zarr", help="The same clips, made otherwise.")],
) -> None:
    """Show how far two datasets of the same clips are apart, such as by fp32 and nf4 teachers."""
    from cache_schema.describe.compare import compare

    found = compare(first, second)
    table = _table("feature", "relative error", "cosine", "largest difference")
    for row in found.features:
        table.add_row(
            row.feature, f"{row.relative_error:.2e}", f"{row.cosine:.6f}", f"{row.largest_difference:.2e}"
        )
    out.print(table)
    out.print(f"{found.frames:,} frames of the {len(found.clips)} clips that both hold")


@app.command(rich_help_panel=DATASET)
def recode(
    source: SourcePath,
    target: TargetPath,
    features: Annotated[
        list[str],
        typer.Option(
            "--feature",
            metavar="NAME=ENCODING",
            help="Such as scene_queries=int8-per-channel; full and bfloat16 are the others. May be repeated.",
        ),
    ],
) -> None:
    """Store some features otherwise, and show the error that this makes."""
    from cache_schema.sharing.reencode import parse_encodings, recode

    encodings = parse_encodings(features)
    with _progress("recode") as advance:
        done = recode(source, target, encodings, on_clip=advance.to)
    for loss in done.features:
        before, after = loss.nbytes_before, loss.nbytes_after
        out.print(f"{loss.feature} as {loss.encoding}: {_size(before)} before, {_size(after)} after")
        out.print(
            f"  relative error {loss.relative_error:.1e}; by the channel "
            f"{loss.channel_error_median:.1e} (median), {loss.channel_error_max:.1e} (largest)"
        )
        tokens = "" if loss.token_cosine is None else f", of the vision tokens {loss.token_cosine:.7f}"
        out.print(f"  cosine {loss.cosine:.7f}{tokens}")
    out.print(f"{done.clips} clips, {done.frames:,} frames in {target}")


@app.command(rich_help_panel=DATASET)
def merge(
    target: TargetPath,
    sources: Annotated[list[Path], typer.Argument(metavar="IN.zarr...", help="Datasets of one teacher.")],
) -> None:
    """Join datasets that the same teacher made of different clips."""
    from cache_schema.sharing.merge import merge

    with _progress("merge") as advance:
        _show_copied(merge(target, sources, on_clip=advance.to), target)


@app.command(rich_help_panel=DATASET)
def subset(
    source: SourcePath,
    target: TargetPath,
    split: SplitChoice = Split.ALL,
    town: Pattern = None,
    scenario: Pattern = None,
    weather: Pattern = None,
    clips: ClipPattern = None,
    every: Annotated[int, typer.Option(min=1, help="Only every n-th frame of each clip.")] = 1,
    part: Annotated[
        str | None, typer.Option(metavar="K/N", help="The k-th of n parts, for places that limit files.")
    ] = None,
) -> None:
    """Make a dataset of some of the clips, or of every n-th frame."""
    from cache_schema.sharing.subset import Part, subset

    which = _filter(split, clips, town=town, scenario=scenario, weather=weather)
    with _progress("subset") as advance:
        done = subset(
            source,
            target,
            which,
            every=every,
            part=None if part is None else Part.parse(part),
            on_clip=advance.to,
        )
    _show_copied(done, target)


def _show_copied(copied: Copied, target: Path) -> None:
    out.print(
        f"{len(copied.added)} clips, {_size(copied.nbytes)} added to {target}; "
        f"{len(copied.present)} were already there"
    )


def _filter(split: Split, clips: str | None, **patterns: str | None) -> ClipFilter:
    from cache_schema.sharing.subset import ClipFilter

    return ClipFilter(split=None if split is Split.ALL else split.value, clips=clips, **patterns)


@app.command("import-npz", rich_help_panel=DATASET)
def import_npz(
    dump: Annotated[Path, typer.Argument(metavar="DIR", help="What Orion-Lite's collector wrote.")],
    dataset: DatasetPath,
    heads: Annotated[
        Path | None,
        typer.Option(help="teacher_heads.safetensors or Orion.pth: stores 15 times less, and checks."),
    ] = None,
) -> None:
    """Make a dataset of somebody's .npz files, without running the teacher."""
    from pipeline.importers.orion_lite.import_npz import import_npz

    with _progress("import") as advance:
        done = import_npz(dump, dataset, heads, on_clip=advance.to)
    out.print(
        f"{len(done.committed)} clips and {done.frames:,} frames in {done.wall_s:.1f} s; "
        f"{len(done.present)} clips were already there"
    )
    if done.largest_error is not None:
        out.print(f"tokens made again of the queries differ by at most {done.largest_error:.1e} (relative)")
    for feature, reason in done.lacking.items():
        out.print(f"without {feature}: {reason}", soft_wrap=True)
    _left_out(done.failed)


@app.command("add-truth", rich_help_panel=DATASET)
def add_truth(dataset: DatasetPath, data: DataRoot) -> None:
    """Add the truth that a dataset lacks from the raw clips, without the teacher."""
    from pipeline.bench2drive.add_ground_truth import add_truth

    done = add_truth(dataset, data, workers=os.cpu_count() or 1)
    out.print(
        f"{len(done.extended)} clips extended by {', '.join(done.features) or 'nothing'}; "
        f"{len(done.present)} had it all",
        soft_wrap=True,
    )
    _left_out(done.failed)


@app.command(rich_help_panel=DATASET)
def card(
    dataset: DatasetPath,
    licence: Annotated[
        str | None, typer.Option(help="Licence under which you share it, such as cc-by-nc-nd-4.0.")
    ] = None,
    authors: Annotated[str | None, typer.Option(help="Who made it.")] = None,
    cite: Annotated[str | None, typer.Option(help="How to cite it.")] = None,
) -> None:
    """Write the dataset's README.md: what it is, its statistics, its licences, how to read it."""
    from cache_schema.describe.card import card

    with _progress("statistics") as advance:
        written = card(dataset, licence, authors=authors, cite=cite, on_feature=advance.to)
    out.print(f"written to {written}")


@app.command(rich_help_panel=DATASET)
def push(dataset: DatasetPath, url: Url) -> None:
    """Share a dataset. Safe to stop and to run again."""
    from cache_schema.sharing.push import push

    with _progress("push") as advance:
        done = push(dataset, url, on_start=advance.expect, on_bytes=advance)
    out.print(f"{len(done.sent)} clips, {_size(done.nbytes)} sent to {url}; {len(done.present)} were there")


@app.command(rich_help_panel=DATASET)
def pull(
    url: Url,
    dataset: DatasetPath,
    split: SplitChoice = Split.ALL,
    clips: ClipPattern = None,
    features: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Only these features; all by default.")
    ] = None,
) -> None:
    """Fetch a dataset, or a part of it; every file is checked as it comes. Safe to run again."""
    from cache_schema.sharing.pull import pull

    with _progress("pull") as advance:
        done = pull(
            url,
            dataset,
            _filter(split, clips),
            features=None if features is None else features.split(","),
            on_start=advance.expect,
            on_bytes=advance,
        )
    out.print(
        f"{len(done.fetched)} clips, {_size(done.nbytes)} fetched to {dataset}; "
        f"{len(done.present)} were there"
    )
    _left_out(done.failed)


@app.command(rich_help_panel=STUDENT)
def train(
    dataset: DatasetPlace,
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

    result = train(
        dataset,
        run,
        recipe(preset, _changes(changes)),
        device=_device(device),
        resident=resident.value,
        trackers=_trackers(trackers),
    )
    if os.environ.get("RANK", "0") == "0":  # of the processes that torchrun starts, one speaks
        out.print(f"{run}: {result.epoch} epochs, {result.step} steps")


@app.command(rich_help_panel=STUDENT)
def sweep(
    dataset: DatasetPlace,
    presets: Annotated[list[str], typer.Argument(metavar="PRESET...", help="Recipes, as in `train`.")],
    runs: Annotated[Path, typer.Option("--runs", metavar="DIR", help="Folder with a run for each preset.")],
    changes: Changes = None,
    resident: ResidentChoice = Resident.NONE,
    trackers: Trackers = None,
    device: Device = None,
) -> None:
    """Train and evaluate several recipes, and put them in one table."""
    from student.reporting.sweep import sweep

    out.print(
        sweep(
            dataset,
            runs,
            presets,
            changes=_changes(changes),
            device=_device(device),
            resident=resident.value,
            trackers=_trackers(trackers),
        )
    )


@app.command("import-student", rich_help_panel=STUDENT)
def import_student(
    weights: Annotated[Path, typer.Argument(metavar="FILE", help="A fused checkpoint, or a training file.")],
    dataset: DatasetPlace,
    run: Annotated[Path, typer.Option("--run", metavar="RUN_DIR", help="Folder of the new run.")],
    heads: Annotated[int, typer.Option(min=1, help="Attention heads, which no file tells.")] = 16,
) -> None:
    """Make a run of a student that Orion-Lite published, to evaluate, export or train it on."""
    from student.orion_lite.published import import_student

    imported = import_student(weights, dataset, run, heads=heads)
    out.print(f"{run}: a student of {imported.config.layers} layers, {imported.config.hidden} wide")


@app.command(rich_help_panel=STUDENT)
def evaluate(
    run: RunDir,
    dataset: DatasetPlace,
    split: SplitChoice = Split.VAL,
    device: Device = None,
) -> None:
    """Measure student, teacher and two trivial drivers in open loop."""
    from student.open_loop.evaluate import evaluate

    out.print(evaluate(run, dataset, split.value, device=_device(device)))


@app.command(rich_help_panel=STUDENT)
def export(
    run: RunDir,
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
) -> None:
    """Write the student for whoever drives with it."""
    if target.suffix == ".safetensors":
        from student.runs.export import export

        out.print(f"exported to {export(run, target)}")
    elif target.suffix == ".onnx":
        from student.orion_lite.onnx_graph import export_onnx

        difference = export_onnx(run, _given(dataset, "--dataset", target), target)
        out.print(f"exported to {target}; onnxruntime and PyTorch differ by {difference:.1e} (relative)")
    elif target.suffix == ".pth":
        from pipeline.teachers.orion.checkpoints.fuse import fuse
        from student.runs.checkpoint import read_checkpoint

        orion = _given(checkpoint, "--checkpoint", target)
        # The teacher's eyes are the one wing's to read, the student is the other's.
        reached, weights = read_checkpoint(run)
        teacher, described = reached.trained_on.teacher, reached.model_dump_json()
        count = fuse(orion, weights, target, teacher=teacher, described=described)
        out.print(f"exported to {target}: {count} tensors")
    else:
        raise RequestError(
            f"{target} has no ending that says what to write",
            expected=".safetensors, .onnx or .pth",
            repair="give the file one of these endings",
        )


@app.command(rich_help_panel=STUDENT)
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


def _given(value: Any, option: str, target: Path) -> Any:
    if value is None:
        raise RequestError(
            f"{option} is missing",
            expected=f"{option} for a file {target.suffix}",
            repair=f"add {option}, or choose another ending",
        )
    return value


def _table(first: str, *others: str, title: str | None = None) -> Table:
    """A table whose first column is never cut."""
    table = Table(title=title, title_justify="left")
    # Names of features fit a narrow terminal, names of clips are folded.
    table.add_column(first, overflow="fold", no_wrap=first == "feature")
    for other in others:
        table.add_column(other, overflow="fold")
    return table


class _Advance:
    """Moves a progress bar."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar, self._task = bar, task

    def __call__(self, more: float) -> None:
        self._bar.advance(self._task, more)

    def expect(self, total: float) -> None:
        """Say how much there will be."""
        self._bar.update(self._task, total=total)

    def to(self, done: float, total: float) -> None:
        """Say how far it is."""
        self._bar.update(self._task, completed=done, total=total)


@contextlib.contextmanager
def _progress(what: str, total: float | None = None) -> Generator[_Advance]:
    """Show a bar while something runs, on a terminal."""
    from rich.progress import Progress

    with Progress(console=err, transient=True, disable=not err.is_terminal) as bar:
        yield _Advance(bar, bar.add_task(what, total=total))


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


def _left_out(failures: Iterable[Failure | LeftOut]) -> None:
    """Show the clips that were left out, and end with the code that says so."""
    table = _table("clip", "why it was left out", "to do")
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

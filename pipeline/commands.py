"""Commands of the offline stage: raw clips and teachers."""

from __future__ import annotations

import enum
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cache_schema.errors import RequestError
from cache_schema.plugins import require
from cache_schema.processors import usable_processors
from cache_schema.terminal import (
    DatasetPath,
    Device,
    ProgressBar,
    Split,
    SplitChoice,
    err,
    exit_if_left_out,
    out,
    torch_device,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pipeline.source import Selection, Source

commands = typer.Typer()
PANEL = "Teacher"


class Precision(enum.StrEnum):
    """Number formats that a teacher computes in."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"


class Quantize(enum.StrEnum):
    """Quantisations of a language model."""

    INT8 = "int8"
    NF4 = "nf4"
    FP8 = "fp8"


DataRoot = Annotated[
    Path,
    typer.Option(
        "--data",
        metavar="ROOT",
        help="Folder of the unpacked clips, or around v1/. Of questions: their JSON file, or folder.",
    ),
]
SourceName = Annotated[
    str,
    typer.Option(
        "--source",
        help="What lies there: bench2drive; questions as drive-kd, bench2drive-vl, chat-b2d or drivelm; or "
        "your own as package.module:Class.",
    ),
]
Inputs = Annotated[
    str | None,
    typer.Option(
        metavar="A,B,...", help="Store these inputs of students from the source itself, such as camera_strip."
    ),
]
TeacherName = Annotated[str, typer.Option("--teacher", help="Preset, or your own as package.module:NAME.")]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        help="Orion.pth, or a folder made by `convert`; an InternVL3's or Qwen2.5-VL's folder as it is. "
        "Without it, those that come with the preset, or random ones."
    ),
]
Slots = Annotated[
    int,
    typer.Option(
        min=1,
        help="Clips that advance together on a worker; a clip's place in the data root decides its slot.",
    ),
]
PrecisionChoice = Annotated[
    Precision, typer.Option("--precision", help="Number format that the teacher computes in.")
]
QuantizeChoice = Annotated[Quantize | None, typer.Option("--quantize", help="Quantise the language model.")]
CompileChoice = Annotated[
    bool | None,
    typer.Option("--compile/--no-compile", help="Compile the teacher's layers. [default: on a GPU]"),
]
Fields = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Change an option of the teacher; may be repeated."),
]
Signals = Annotated[
    str | None, typer.Option(metavar="A,B,...", help="Compute only these signals: --set signals=A,B,...")
]


@commands.command("demo-data", rich_help_panel=PANEL)
def demo_data(
    root: Annotated[Path, typer.Argument(help="Folder to write to.")],
    clips: Annotated[int, typer.Option(min=1, help="Number of clips.")] = 12,
    frames: Annotated[int, typer.Option(min=1, help="Frames a clip, at 10 Hz.")] = 60,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal bytes.")] = 0,
) -> None:
    """Write synthetic clips in Bench2Drive's own layout."""
    from pipeline.bench2drive.synthetic import write_demo_data

    with ProgressBar("demo-data", "clips") as bar:
        write_demo_data(
            root, clips=clips, frames=frames, seed=seed, workers=usable_processors(), progress=bar
        )
    out.print(f"{clips} clips of {frames} frames in {root}")


@commands.command("demo-questions", rich_help_panel=PANEL)
def demo_questions(
    root: Annotated[Path, typer.Argument(metavar="DATA_ROOT", help="What `demo-data` wrote.")],
    file: Annotated[Path, typer.Argument(metavar="OUT.json", help="File to write, for --source drive-kd.")],
    every: Annotated[int, typer.Option(min=1, help="Ask about one frame in so many.")] = 5,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal bytes.")] = 0,
) -> None:
    """Write questions about synthetic clips, whose answers follow from the scene."""
    from pipeline.bench2drive.synthetic import write_demo_questions

    with ProgressBar("demo-questions", "clips") as bar:
        answers = write_demo_questions(root, file, every=every, seed=seed, progress=bar)
    out.print(f"{answers}\nquestions in {file}", soft_wrap=True)


@commands.command(rich_help_panel=PANEL)
def convert(
    checkpoint: Annotated[Path, typer.Argument(metavar="Orion.pth", help="The released checkpoint.")],
    folder: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="Folder to write to.")],
    teacher: TeacherName = "orion-7b",
    fields: Fields = None,
    signals: Signals = None,
) -> None:
    """Write a checkpoint as sharded safetensors, adapters merged, for fast and safe starts."""
    from pipeline.teachers import teacher_preset

    preset = teacher_preset(teacher, _options(fields, signals))
    require(preset, f"the teacher {teacher}", "convert")
    with ProgressBar("convert", "tensors") as bar:
        preset.convert(checkpoint, folder, progress=bar)
    out.print(f"converted to {folder}")


@commands.command(rich_help_panel=PANEL)
def plan(
    dataset: DatasetPath,
    data: DataRoot,
    source: SourceName = "bench2drive",
    inputs: Inputs = None,
    teacher: TeacherName = "orion-tiny",
    checkpoint: Checkpoint = None,
    split: SplitChoice = Split.ALL,
    slots: Slots = 4,
    workers: Annotated[int, typer.Option(min=1, help="GPUs to count on.")] = 1,
    measure: Annotated[bool, typer.Option("--measure", help="Run a few real frames first.")] = False,
    precision: PrecisionChoice = Precision.FP32,
    quantize: QuantizeChoice = None,
    compiled: CompileChoice = None,
    fields: Fields = None,
    signals: Signals = None,
    device: Device = None,
) -> None:
    """Show what an extraction would cost. Writes nothing."""
    from pipeline.extraction.estimate import frames_per_second, plan
    from pipeline.teachers import load_teacher, teacher_preset
    from pipeline.teachers.protocol import check_kind

    options = _options(fields, signals)
    preset, opened = teacher_preset(teacher, options), _opened(source, data, inputs)
    check_kind(preset, opened)
    selection = _select(opened, split)
    measured = None
    if measure:
        with ProgressBar("load", "tensors") as bar:
            loaded = load_teacher(
                teacher,
                checkpoint,
                device=torch_device(device),
                precision=precision,
                quantize=quantize,
                compile=compiled,
                options=options,
                progress=bar,
            )
        measured = frames_per_second(selection, loaded, slots=slots)
    cost = plan(dataset, selection, preset, measured=measured, workers=workers)
    out.print(cost, soft_wrap=True)
    exit_if_left_out((*selection.failed, *cost.stale))


@commands.command(rich_help_panel=PANEL)
def extract(
    dataset: DatasetPath,
    data: DataRoot,
    source: SourceName = "bench2drive",
    inputs: Inputs = None,
    teacher: TeacherName = "orion-tiny",
    checkpoint: Checkpoint = None,
    split: SplitChoice = Split.ALL,
    slots: Slots = 4,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Start as many processes, one a GPU. Without: in this one."),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="tcp://HOST:PORT", help="Join a running dask cluster.")
    ] = None,
    precision: PrecisionChoice = Precision.FP32,
    quantize: QuantizeChoice = None,
    compiled: CompileChoice = None,
    fields: Fields = None,
    signals: Signals = None,
    device: Device = None,
) -> None:
    """Run the teacher over every frame, once. Safe to stop and to run again."""
    from pipeline.source import absolute
    from pipeline.teachers import load_teacher, teacher_preset
    from pipeline.teachers.protocol import check_kind

    options = _options(fields, signals)
    opened = _opened(source, data, inputs)
    check_kind(teacher_preset(teacher, options), opened)
    selection = _select(opened, split)
    # A worker may run in another folder.
    weights = None if checkpoint is None else absolute(checkpoint)
    load = functools.partial(
        load_teacher,
        teacher,
        weights,
        precision=precision,
        quantize=quantize,
        compile=compiled,
        options=options,
    )
    if workers is None and scheduler is None:
        from pipeline.extraction.run import extract

        with ProgressBar("load", "tensors") as bar:
            loaded = load(device=torch_device(device), progress=bar)
        with ProgressBar("extract", "frames") as bar:
            report = extract(selection, loaded, dataset, slots=slots, progress=bar)
    else:
        from pipeline.extraction.cluster import extract_on_cluster
        from pipeline.extraction.dask_cluster import connect

        with connect(workers, scheduler, device=device) as client, ProgressBar("extract", "frames") as bar:
            # Each worker finds its own device: this machine need not have a GPU.
            load = functools.partial(load, device=device)
            report = extract_on_cluster(selection, load, dataset, client, slots=slots, progress=bar)
    out.print(report, soft_wrap=True)
    exit_if_left_out(report.failed)


@commands.command("import-npz", rich_help_panel=PANEL)
def import_npz(
    dump: Annotated[Path, typer.Argument(metavar="DIR", help="What Orion-Lite's collector wrote.")],
    dataset: DatasetPath,
    heads: Annotated[
        Path | None,
        typer.Option(help="teacher_heads.safetensors or Orion.pth: stores 15 times less, and checks."),
    ] = None,
) -> None:
    """Make a dataset of existing .npz files, without running the teacher."""
    from pipeline.importers.orion_lite.import_npz import import_npz

    with ProgressBar("import", "clips") as bar:
        report = import_npz(dump, dataset, heads, progress=bar)
    out.print(report, soft_wrap=True)
    exit_if_left_out(report.failed)


@commands.command("add-truth", hidden=True)
@commands.command("add-ground-truth", rich_help_panel=PANEL)
def add_ground_truth(dataset: DatasetPath, data: DataRoot) -> None:
    """Add the ground truth that a dataset lacks from the raw clips, without the teacher."""
    from pipeline.bench2drive.add_ground_truth import add_ground_truth

    with ProgressBar("add ground truth", "frames") as bar:
        report = add_ground_truth(dataset, data, workers=usable_processors(), progress=bar)
    out.print(report, soft_wrap=True)
    exit_if_left_out(report.failed)


def _options(fields: Sequence[str] | None, signals: str | None) -> dict[str, str]:
    """Return the options of a teacher by their fields."""
    texts = (*(fields or ()), *(() if signals is None else (f"signals={signals}",)))
    form = "FIELD=VALUE, each field once; --signals A,B is --set signals=A,B"
    return assigned(texts, "--set", example="signals=perception,planning", expected=form)


def assigned(
    texts: Iterable[str], option: str, *, example: str, expected: str = "FIELD=VALUE, each field once"
) -> dict[str, str]:
    """Return what the texts of an option assign to fields, with an example and the form for the message.

    Raises:
        RequestError: A text has another form, or a field comes twice.
    """
    values: dict[str, str] = {}
    for text in texts:
        field, equals, value = text.partition("=")
        if not (field and equals) or field in values:
            raise RequestError(
                f"{field!r} is set twice" if field in values else f"{option} {text!r} sets nothing",
                expected=expected,
                repair=f"write, for example, {option} {example}",
            )
        values[field] = value
    return values


def _opened(name: str, root: Path, inputs: str | None) -> Source:
    from pipeline.source import open_source, with_inputs

    return with_inputs(
        open_source(name, root), [] if inputs is None else [name.strip() for name in inputs.split(",")]
    )


def _select(source: Source, split: Split) -> Selection:
    selection = source.select(split.value)
    for note in selection.notes:
        err.print(f"warning: {note}", soft_wrap=True)
    return selection

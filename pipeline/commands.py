"""Commands of the offline stage: raw clips and teachers."""

from __future__ import annotations

import enum
import functools
import os
from pathlib import Path
from typing import Annotated

import typer

from cache_schema.terminal import (
    DatasetPath,
    Device,
    ProgressBar,
    Split,
    SplitChoice,
    err,
    exit_if_left_out,
    out,
    size,
    table,
    torch_device,
)

commands = typer.Typer()
PANEL = "Teacher"


class Precision(enum.StrEnum):
    """Numbers that a teacher computes in."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"


class Quantize(enum.StrEnum):
    """Quantisations of a language model."""

    INT8 = "int8"
    NF4 = "nf4"


DataRoot = Annotated[
    Path, typer.Option("--data", metavar="ROOT", help="Folder of the unpacked clips, or around v1/.")
]
TeacherName = Annotated[str, typer.Option("--teacher", help="Preset, or your own as package.module:NAME.")]
Checkpoint = Annotated[
    Path | None,
    typer.Option(help="Orion.pth, or a folder made by `convert`. Without it weights are random."),
]
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
            root, clips=clips, frames=frames, seed=seed, workers=os.cpu_count() or 1, progress=bar
        )
    out.print(f"{clips} clips of {frames} frames in {root}")


@commands.command(rich_help_panel=PANEL)
def convert(
    checkpoint: Annotated[Path, typer.Argument(metavar="Orion.pth", help="The released checkpoint.")],
    folder: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="Folder to write to.")],
    teacher: TeacherName = "orion-7b",
) -> None:
    """Write a checkpoint as sharded safetensors, adapters merged, for fast and safe starts."""
    from pipeline.teachers import teacher_preset

    teacher_preset(teacher).convert(checkpoint, folder)
    out.print(f"converted to {folder}")


@commands.command(rich_help_panel=PANEL)
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
            teacher, checkpoint, device=torch_device(device), precision=precision, quantize=quantize
        )
        rate = frames_a_second(selection, loaded, slots=slots)
    cost = plan(dataset, selection, teacher_preset(teacher), measured=rate)
    shown = table("feature", "one frame", "bytes a frame", "all frames", title=str(dataset))
    for spec in cost.features:
        shown.add_row(
            spec.name, f"{spec.dtype}{spec.shape}", f"{spec.nbytes:,}", size(spec.nbytes * cost.frames)
        )
    shown.add_section()
    shown.add_row("together", "", f"{cost.nbytes // max(cost.frames, 1):,}", size(cost.nbytes))
    out.print(shown)
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
    exit_if_left_out(selection.failures)


@commands.command(rich_help_panel=PANEL)
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

        loaded = load(device=torch_device(device))
        with ProgressBar("extract", "frames") as bar:
            report = extract(selection, loaded, dataset, slots=slots, progress=bar)
    else:
        from pipeline.extraction.cluster import connect, extract_on_cluster

        with connect(workers, scheduler) as client, ProgressBar("extract", "frames") as bar:
            # Each worker finds its own device: this machine need not have a GPU.
            load = functools.partial(load, device=device)
            report = extract_on_cluster(selection, load, dataset, client, slots=slots, progress=bar)
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
    """Make a dataset of somebody's .npz files, without running the teacher."""
    from pipeline.importers.orion_lite.import_npz import import_npz

    with ProgressBar("import", "clips") as bar:
        done = import_npz(dump, dataset, heads, progress=bar)
    out.print(
        f"{len(done.committed)} clips and {done.frames:,} frames in {done.wall_s:.1f} s; "
        f"{len(done.present)} clips were already there"
    )
    if done.largest_error is not None:
        out.print(f"tokens made again of the queries differ by at most {done.largest_error:.1e} (relative)")
    for feature, reason in done.lacking.items():
        out.print(f"without {feature}: {reason}", soft_wrap=True)
    exit_if_left_out(done.failed)


@commands.command("add-truth", rich_help_panel=PANEL)
def add_truth(dataset: DatasetPath, data: DataRoot) -> None:
    """Add the truth that a dataset lacks from the raw clips, without the teacher."""
    from pipeline.bench2drive.add_ground_truth import add_truth

    with ProgressBar("add truth", "frames") as bar:
        done = add_truth(dataset, data, workers=os.cpu_count() or 1, progress=bar)
    out.print(
        f"{len(done.extended)} clips extended by {', '.join(done.features) or 'nothing'}; "
        f"{len(done.present)} had it all",
        soft_wrap=True,
    )
    exit_if_left_out(done.failed)

"""Commands that make a teacher of latent actions, which nobody publishes. They are experimental."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cache_schema.processors import usable_processors
from cache_schema.terminal import (
    DatasetPath,
    Device,
    ProgressBar,
    exit_if_left_out,
    is_first_process,
    out,
    torch_device,
)
from pipeline.commands import PANEL, DataRoot, SourceName, assigned

if TYPE_CHECKING:
    from collections.abc import Sequence

commands = typer.Typer()

RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN_DIR", help="Folder of the run; it resumes from there.")
]
Dinov2 = Annotated[
    Path | None, typer.Option(metavar="DIR", help="A DINOv2 with registers, as transformers saves it.")
]


@commands.command("train-actions", rich_help_panel=PANEL)
def train_actions(
    run: RunFolder,
    data: DataRoot,
    source: SourceName = "bench2drive",
    preset: Annotated[str, typer.Option(help="Sizes and recipe: published, or tiny.")] = "tiny",
    fields: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Change the preset. Repeatable."),
    ] = None,
    dinov2: Dinov2 = None,
    device: Device = None,
) -> None:
    """Experimental: learn latent actions from clips, in two stages. Safe to stop and to run again."""
    from pipeline.source import open_source
    from pipeline.teachers.latent_action_vlm.making.actions_config import preset_of
    from pipeline.teachers.latent_action_vlm.making.train_actions import train_actions

    config = preset_of(preset, _values(fields, "--set"))
    with ProgressBar("train actions", "steps") as bar:
        report = train_actions(
            run,
            open_source(source, data),
            config,
            dinov2=dinov2,
            device=torch_device(device),
            workers=usable_processors(),
            progress=bar,
        )
    if is_first_process():
        out.print(report.checks)
        out.print(f"{report.file}: sha256:{report.sha256}", soft_wrap=True)
    exit_if_left_out(report.failed)


@commands.command("add-codes", rich_help_panel=PANEL)
def add_codes(
    dataset: DatasetPath,
    data: DataRoot,
    actions: Annotated[
        Path, typer.Option(metavar="FILE", help="actions.safetensors, which `train-actions` wrote.")
    ],
    source: SourceName = "bench2drive",
    dinov2: Dinov2 = None,
    device: Device = None,
) -> None:
    """Experimental: label a dataset's frames by the latent actions that followed them, from the raw clips."""
    from pipeline.source import open_source
    from pipeline.teachers.latent_action_vlm.making.add_codes import add_codes
    from pipeline.teachers.latent_action_vlm.making.learned_actions import LearnedActions

    learned = LearnedActions(actions, dinov2=dinov2, device=torch_device(device))
    with ProgressBar("add codes", "frames") as bar:
        report = add_codes(dataset, open_source(source, data), learned, progress=bar)
    out.print(report, soft_wrap=True)
    exit_if_left_out(report.failed)


@commands.command("tune-vlm", rich_help_panel=PANEL)
def tune_vlm(
    run: RunFolder,
    dataset: DatasetPath,
    data: DataRoot,
    source: SourceName = "bench2drive",
    teacher: Annotated[str, typer.Option(help="Preset of a teacher of latent actions.")] = "latentvla-tiny",
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A Qwen2.5-VL. Without it weights are random.")
    ] = None,
    fields: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Change an option of the teacher. Repeatable."),
    ] = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option("--train", metavar="FIELD=VALUE", help="Change the training. Repeatable."),
    ] = None,
    device: Device = None,
) -> None:
    """Experimental: teach a vision-language model to say the codes that label a dataset. Resumes."""
    from pipeline.source import open_source
    from pipeline.teachers.latent_action_vlm.making.tune_vlm import tune_vlm, tuning_config, tuning_preset

    config = tuning_config(_values(recipe, "--train"))
    with ProgressBar("tune", "steps") as bar:
        report = tune_vlm(
            run,
            dataset,
            open_source(source, data),
            tuning_preset(teacher, _values(fields, "--set")),
            checkpoint,
            config,
            device=torch_device(device),
            progress=bar,
        )
    if is_first_process():
        out.print(report.checks)
        out.print(f"{report.folder}: give it to `extract --teacher {teacher} --checkpoint`", soft_wrap=True)


def _values(texts: Sequence[str] | None, option: str) -> dict[str, str]:
    return assigned(texts or (), option, example="batch_size=8")

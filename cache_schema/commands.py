"""Commands over latent datasets: each parses options, calls one function and prints its result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cache_schema.terminal import (
    FOUND,
    DatasetPath,
    ProgressBar,
    Split,
    SplitChoice,
    exit_if_left_out,
    out,
)

if TYPE_CHECKING:
    from cache_schema.sharing.subset import ClipFilter


commands = typer.Typer()
PANEL = "Dataset"
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
TagPatterns = Annotated[
    list[str] | None,
    typer.Option(
        "--tag", metavar="NAME=PATTERN", help="Clips whose tag matches, with * and ?. May be repeated."
    ),
]


@commands.command(rich_help_panel=PANEL)
def verify(
    dataset: DatasetPath,
    quick: Annotated[
        bool, typer.Option("--quick", help="Check names, sizes and metadata, not digests.")
    ] = False,
) -> None:
    """Check every byte against the ledger and every array against the manifest."""
    from cache_schema.integrity.verify import verify

    with ProgressBar("verify", "clips") as bar:
        found = verify(dataset, quick=quick, progress=bar)
    out.print(found)
    if found.problems:
        raise typer.Exit(FOUND)


@commands.command(rich_help_panel=PANEL)
def repair(
    dataset: DatasetPath,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False,
) -> None:
    """Put damaged clips aside, so that the next extraction makes exactly these again."""
    from cache_schema.integrity.repair import repair

    with ProgressBar("verify", "clips") as bar:
        done = repair(dataset, dry_run=dry_run, progress=bar)
    out.print(done)
    if done.left:
        raise typer.Exit(FOUND)


@commands.command(rich_help_panel=PANEL)
def compare(
    first: Annotated[Path, typer.Argument(metavar="A.zarr", help="The dataset to measure against.")],
    second: Annotated[Path, typer.Argument(metavar="B.zarr", help="The same clips, made otherwise.")],
) -> None:
    """Show how far two datasets of the same clips are apart, such as by fp32 and nf4 teachers."""
    from cache_schema.describe.compare import compare

    with ProgressBar("compare", "clips") as bar:
        found = compare(first, second, progress=bar)
    out.print(found)


@commands.command(rich_help_panel=PANEL)
@commands.command("recode", hidden=True)
def reencode(
    source: SourcePath,
    target: TargetPath,
    features: Annotated[
        list[str],
        typer.Option(
            "--feature",
            metavar="NAME=ENCODING",
            help="Such as queries=int8-per-channel; full, bfloat16 and lower-triangle are the others. "
            "May be repeated.",
        ),
    ],
) -> None:
    """Store some features in another encoding, and show the error that this makes."""
    from cache_schema.sharing.reencode import parse_encodings, reencode

    encodings = parse_encodings(features)
    with ProgressBar("reencode", "clips") as bar:
        done = reencode(source, target, encodings, progress=bar)
    out.print(done)


@commands.command(rich_help_panel=PANEL)
def merge(
    target: TargetPath,
    sources: Annotated[list[Path], typer.Argument(metavar="IN.zarr...", help="Datasets of one teacher.")],
) -> None:
    """Join datasets that the same teacher made of different clips."""
    from cache_schema.sharing.merge import merge

    with ProgressBar("merge", "clips") as bar:
        done = merge(target, sources, progress=bar)
    out.print(done)


@commands.command(rich_help_panel=PANEL)
def subset(
    source: SourcePath,
    target: TargetPath,
    split: SplitChoice = Split.ALL,
    town: Pattern = None,
    scenario: Pattern = None,
    weather: Pattern = None,
    tag: TagPatterns = None,
    clips: ClipPattern = None,
    every: Annotated[int, typer.Option(min=1, help="Only every n-th frame of each clip.")] = 1,
    part: Annotated[
        str | None, typer.Option(metavar="K/N", help="The k-th of n parts, for storage that limits files.")
    ] = None,
) -> None:
    """Make a dataset of some of the clips, or of every n-th frame."""
    from cache_schema.sharing.subset import Part, parse_tags, subset

    tags = {"town": town, "scenario": scenario, "weather": weather}
    patterns = {name: pattern for name, pattern in tags.items() if pattern is not None}
    which = _filter(split, clips, patterns | parse_tags(tag or ()))
    with ProgressBar("subset", "clips") as bar:
        done = subset(
            source,
            target,
            which,
            every=every,
            part=None if part is None else Part.parse(part),
            progress=bar,
        )
    out.print(done)


@commands.command(rich_help_panel=PANEL)
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

    with ProgressBar("statistics", "features") as bar:
        written = card(dataset, licence, authors=authors, cite=cite, progress=bar)
    out.print(f"written to {written}")


@commands.command(rich_help_panel=PANEL)
def push(
    dataset: DatasetPath,
    url: Url,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare all that is there by digest; send again what differs.")
    ] = False,
) -> None:
    """Share a dataset. Safe to stop and to run again."""
    from cache_schema.sharing.push import push

    with ProgressBar("push", "bytes") as bar:
        done = push(dataset, url, verify_there=verify, progress=bar)
    out.print(done)


@commands.command(rich_help_panel=PANEL)
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

    with ProgressBar("pull", "bytes") as bar:
        done = pull(
            url,
            dataset,
            _filter(split, clips, {}),
            features=None if features is None else features.split(","),
            progress=bar,
        )
    out.print(done)
    exit_if_left_out(done.failed)


def _filter(split: Split, clips: str | None, tags: dict[str, str]) -> ClipFilter:
    from cache_schema.sharing.subset import ClipFilter

    return ClipFilter(split=None if split is Split.ALL else split.value, clips=clips, tags=tags)

"""Commands over latent datasets."""

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
    size,
    table,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cache_schema.dataset.copy_clips import Copied
    from cache_schema.integrity.verify import Problem
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


@commands.command(rich_help_panel=PANEL)
def verify(
    dataset: DatasetPath,
    quick: Annotated[
        bool, typer.Option("--quick", help="Look at names, sizes and metadata, not at digests.")
    ] = False,
) -> None:
    """Check every byte against the ledger and every array against the manifest."""
    from cache_schema.integrity.verify import verify

    with ProgressBar("verify", "clips") as bar:
        found = verify(dataset, quick=quick, progress=bar)
    looked = f"{found.clips} clips, {found.frames:,} frames, {size(found.nbytes)}"
    if not found.problems:
        out.print(f"{looked}: all as written")
        return
    _show_problems(f"{looked}: {len(found.problems)} problems", found.problems)
    raise typer.Exit(FOUND)


@commands.command(rich_help_panel=PANEL)
def repair(
    dataset: DatasetPath,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
) -> None:
    """Put bad clips aside, so that the next extraction makes exactly these again."""
    from cache_schema.integrity.repair import repair

    with ProgressBar("verify", "clips") as bar:
        done = repair(dataset, dry_run=dry_run, progress=bar)
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
    shown = table("clip", "feature", "what is wrong", title=title)
    for problem in problems:
        shown.add_row(problem.clip or "(dataset)", problem.feature or "", problem.what)
    out.print(shown)


@commands.command(rich_help_panel=PANEL)
def compare(
    first: Annotated[Path, typer.Argument(metavar="A.zarr", help="The dataset to measure against.")],
    second: Annotated[Path, typer.Argument(metavar="B.zarr", help="The same clips, made otherwise.")],
) -> None:
    """Show how far two datasets of the same clips are apart, such as by fp32 and nf4 teachers."""
    from cache_schema.describe.compare import compare

    found = compare(first, second)
    shown = table("feature", "relative error", "cosine", "largest difference")
    for row in found.features:
        shown.add_row(
            row.feature, f"{row.relative_error:.2e}", f"{row.cosine:.6f}", f"{row.largest_difference:.2e}"
        )
    out.print(shown)
    out.print(f"{found.frames:,} frames of the {len(found.clips)} clips that both hold")


@commands.command(rich_help_panel=PANEL)
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
    with ProgressBar("recode", "clips") as bar:
        done = recode(source, target, encodings, progress=bar)
    for loss in done.features:
        before, after = loss.nbytes_before, loss.nbytes_after
        out.print(f"{loss.feature} as {loss.encoding}: {size(before)} before, {size(after)} after")
        out.print(
            f"  relative error {loss.relative_error:.1e}; by the channel "
            f"{loss.channel_error_median:.1e} (median), {loss.channel_error_max:.1e} (largest)"
        )
        derived = "".join(
            f", of the derived {name} {value:.7f}" for name, value in loss.derived_cosine.items()
        )
        out.print(f"  cosine {loss.cosine:.7f}{derived}")
    out.print(f"{done.clips} clips, {done.frames:,} frames in {target}")


@commands.command(rich_help_panel=PANEL)
def merge(
    target: TargetPath,
    sources: Annotated[list[Path], typer.Argument(metavar="IN.zarr...", help="Datasets of one teacher.")],
) -> None:
    """Join datasets that the same teacher made of different clips."""
    from cache_schema.sharing.merge import merge

    with ProgressBar("merge", "clips") as bar:
        _show_copied(merge(target, sources, progress=bar), target)


@commands.command(rich_help_panel=PANEL)
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
    with ProgressBar("subset", "clips") as bar:
        done = subset(
            source,
            target,
            which,
            every=every,
            part=None if part is None else Part.parse(part),
            progress=bar,
        )
    _show_copied(done, target)


def _show_copied(copied: Copied, target: Path) -> None:
    out.print(
        f"{len(copied.added)} clips, {size(copied.nbytes)} added to {target}; "
        f"{len(copied.present)} were already there"
    )


def _filter(split: Split, clips: str | None, **patterns: str | None) -> ClipFilter:
    from cache_schema.sharing.subset import ClipFilter

    tags = {tag: pattern for tag, pattern in patterns.items() if pattern is not None}
    return ClipFilter(split=None if split is Split.ALL else split.value, clips=clips, tags=tags)


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
def push(dataset: DatasetPath, url: Url) -> None:
    """Share a dataset. Safe to stop and to run again."""
    from cache_schema.sharing.push import push

    with ProgressBar("push", "bytes") as bar:
        done = push(dataset, url, progress=bar)
    out.print(f"{len(done.sent)} clips, {size(done.nbytes)} sent to {url}; {len(done.present)} were there")


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
            _filter(split, clips),
            features=None if features is None else features.split(","),
            progress=bar,
        )
    out.print(
        f"{len(done.fetched)} clips, {size(done.nbytes)} fetched to {dataset}; {len(done.present)} were there"
    )
    exit_if_left_out(done.failed)

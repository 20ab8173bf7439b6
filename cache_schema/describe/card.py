"""The dataset card: ``README.md`` inside a dataset, as the Hugging Face Hub shows it.

Text that comes from the dataset is untrusted: in the front matter it passes through a YAML writer, elsewhere
all that could be markup is escaped.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING

import yaml

from cache_schema.dataset.reader import LatentDataset
from cache_schema.describe.card_reading import how_to_read
from cache_schema.describe.inspect import inspect
from cache_schema.describe.statistics import PERCENTILES, statistics
from cache_schema.errors import RequestError
from cache_schema.format.ragged import shape_text
from cache_schema.progress import SILENT
from cache_schema.storage.atomic_io import sha256_bytes, write_durably
from cache_schema.storage.backend import CARD
from cache_schema.terminal import size
from cache_schema.vocabulary.credits import credits_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from cache_schema.describe.inspect import Summary
    from cache_schema.progress import Progress

HUB_LICENCES = [
    "apache-2.0",
    "cc-by-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-nd-4.0",
    "cc-by-nc-sa-4.0",
    "cc-by-nd-4.0",
    "cc-by-sa-4.0",
    "cc0-1.0",
    "llama2",
    "mit",
    "odbl",
    "odc-by",
    "openrail",
]
"""Names of licences on the Hub; any other licence is stated as ``other``, with its name."""

SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
)
"""Frames below which the Hub's size category applies."""


def card(
    path: Path,
    licence: str | None,
    *,
    authors: str | None = None,
    cite: str | None = None,
    progress: Progress = SILENT,
) -> Path:
    """Write the card of a dataset; statistics are computed of all its values.

    Args:
        path: The dataset's folder.
        licence: Licence under which the derived data is shared: a name that the Hub knows, or any other text.
        authors: Who made the dataset.
        cite: How to cite it, such as a reference to a paper.
        progress: Counts features.

    Returns:
        The card.

    Raises:
        RequestError: No licence is stated, or the dataset has no clips.
        DatasetError: The dataset is damaged.
    """
    if licence is None or not licence.strip():
        raise RequestError(
            f"no licence is stated for {path}",
            expected=f"the licence under which you share it: {', '.join(HUB_LICENCES)}, or another text",
            repair="decide it, mind the terms of the raw data and of the teacher, and give it with --licence",
        )
    summary = inspect(path, clips=True)
    if not summary.clips:
        raise RequestError(
            f"{path} has no clips yet",
            expected="a dataset to describe",
            repair="extract some clips first",
        )
    dataset = LatentDataset.open(path)
    name = path.resolve().name
    parts = [
        front_matter(summary, licence.strip()),
        f"# {_plain(title(summary))}",
        _about(summary),
        "## Features\n\n" + _features(summary),
        "## Teacher and data\n\n" + _identity(summary),
        "## How much there is\n\n" + _counts(summary),
        "## Statistics\n\n" + _statistics(dataset, progress),
        "## How to read it\n\n" + how_to_read(summary, name),
        "## How to cite it\n\n" + _citation(dataset, summary, authors, cite),
        "## Licences\n\n" + _licences(summary, licence.strip()),
    ]
    write_durably(path / CARD, ("\n\n".join(parts) + "\n").encode())
    return path / CARD


def title(summary: Summary) -> str:
    """Return the title of the card."""
    return f"{summary.manifest.teacher.name} latents of {summary.manifest.data.name}"


def front_matter(summary: Summary, licence: str) -> str:
    """Return what the Hub reads, between two lines of dashes."""
    known = licence.lower() in HUB_LICENCES
    fields = {
        "license": licence.lower() if known else "other",
        **({} if known else {"license_name": licence}),
        "pretty_name": title(summary),
        "task_categories": ["robotics"],
        "tags": [
            "autonomous-driving",
            "knowledge-distillation",
            "vision-language-action",
            "latents",
            "zarr",
            "teachonce",
            summary.manifest.data.name,
            summary.manifest.teacher.name,
        ],
        "size_categories": [next((name for limit, name in SIZES if summary.frames < limit), "100M<n<1B")],
        # The Hub's viewer shows tables and images, not arrays.
        "viewer": False,
    }
    return "---\n" + yaml.safe_dump(fields, sort_keys=False, allow_unicode=True) + "---"


def _about(summary: Summary) -> str:
    teacher, data = summary.manifest.teacher, summary.manifest.data
    step = summary.manifest.frame_step
    text = (
        f"Outputs of the teacher {_plain(teacher.name)} at {summary.frames:,} frames of "
        f"{summary.clips:,} clips of {_plain(data.name)}, so that students can be trained without running it "
        f"again. A latent dataset of format {summary.manifest.format_version}: one Zarr v3 group, "
        f"{size(summary.stored_bytes)} of clips and {size(summary.asset_bytes)} of small weights, every "
        "file of a clip with its size and sha256 in `ledger/`."
    )
    if step > 1:
        text += f" Of every clip it holds one frame in {step}; the teacher saw them all."
    for name, nbytes in summary.derived.items():
        if nbytes.ratio is not None:
            text += (
                f" `{name}` can be read like a feature: it is a linear map, in `assets/`, of what is stored, "
                f"which takes {nbytes.ratio:.1f} times fewer bytes."
            )
    return text


def _features(summary: Summary) -> str:
    rows = [
        (
            f"`{spec.name}`",
            spec.role,
            f"{spec.dtype} {_shape(spec.shape)}",
            _plain(", ".join(promised.axes)),
            _plain(spec.unit),
            _plain(promised.frame or ""),
            spec.encoding,
            f"{spec.stored_bytes / summary.frames:,.0f}",
            _plain(spec.description),
        )
        for spec, promised in zip(summary.features, summary.manifest.features, strict=True)
    ]
    head = (
        "feature",
        "role",
        "one frame",
        "axes",
        "unit",
        "frame of reference",
        "encoding",
        "bytes per frame",
        "what it is",
    )
    roles = (
        "`input`: the student reads it; `target`: the teacher computed it; `truth`: ground truth. Types and "
        "shapes are those of decoded values, `*` is an axis whose length differs from frame to frame; bytes "
        "are what is stored, on average."
    )
    return _table(head, rows) + "\n\n" + roles


def _identity(summary: Summary) -> str:
    teacher, data, code = summary.manifest.teacher, summary.manifest.data, summary.manifest.code
    rows = {
        "teacher": teacher.name,
        "weights": teacher.weights,
        "precision": teacher.precision,
        "quantization": teacher.quantization or "none",
        "preprocessing": json.dumps(teacher.preprocessing),
        "prompt": f"{len(teacher.prompt)} tokens, constant" if teacher.prompt else "none",
        "data": str(data),
        "licence of the data": data.licence,
        "written by": f"teachonce {code.teachonce}; "
        + ", ".join(f"{library} {version}" for library, version in sorted(code.libraries.items())),
    }
    return _table(("", ""), [(name, _plain(value)) for name, value in rows.items()])


def _counts(summary: Summary) -> str:
    assert summary.clip_table is not None
    tables = []
    for field in ("split", *summary.clips_by_tag):
        clips, frames = Counter[str](), Counter[str]()
        for clip in summary.clip_table:
            value = clip.split if field == "split" else clip.tags.get(field, "unknown")
            clips[value] += 1
            frames[value] += clip.frames
        rows = [(_plain(value), f"{clips[value]:,}", f"{frames[value]:,}") for value in sorted(clips)]
        tables.append(_table((field, "clips", "frames"), rows))
    return "\n\n".join(tables)


def _statistics(dataset: LatentDataset, progress: Progress) -> str:
    head = ("feature", "mean", "std", "min", *(f"{share} %" for share in PERCENTILES), "max", "histogram")
    rows = []
    features = dataset.manifest.features
    progress.expect(len(features))
    for spec in features:
        found = statistics(dataset, spec.name)
        cells = [""] * (len(head) - 2) + ["no values"]
        if found is not None:
            numbers = (found.mean, found.std, found.minimum, *found.percentiles, found.maximum)
            cells = [*(f"{number:.4g}" for number in numbers), f"`{found.bars}`"]
        rows.append((f"`{spec.name}`", *cells))
        progress.advance()
    return (
        _table(head, rows)
        + "\n\nOver all values of all clips; histograms reach from the 1st to the 99th percentile."
    )


def _citation(dataset: LatentDataset, summary: Summary, authors: str | None, cite: str | None) -> str:
    digests = {clip: dataset.entry(clip).digest for clip in dataset.clips}
    digest = sha256_bytes(json.dumps(digests, sort_keys=True).encode())
    by = f"{authors}: " if authors else ""
    own = cite or f"{by}{title(summary)}, latent dataset, sha256 {digest}"
    papers = credits_of(summary.manifest.teacher, summary.manifest.data).papers
    lines = [_plain(own), f"The sha256 over the digests of all its clips is `{digest}`."]
    if papers:
        lines.append("It is built on:\n\n" + "\n".join(f"- {paper}." for paper in papers))
    return "\n\n".join(lines)


def _licences(summary: Summary, licence: str) -> str:
    data, teacher = summary.manifest.data, summary.manifest.teacher
    rows: list[tuple[str, ...]] = [("this dataset", _plain(licence), "as its publisher states")]
    rows.append((_plain(data.name), _plain(data.licence), "the raw data that it is derived from"))
    rows += credits_of(teacher, data).terms
    text = (
        "Latents are derived from data and weights that come with terms of their own. Using and sharing this "
        "dataset is bound by all of these:\n\n" + _table(("what", "licence", "why"), rows)
    )
    if "ND" in re.split(r"[^A-Za-z]+", data.licence):
        text += (
            "\n\nThe licence of the raw data does not permit sharing derivatives of it. Whether latents are "
            "one has to be settled with its owners before they are shared."
        )
    return text


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _shape(shape: tuple[int | None, ...]) -> str:
    return shape_text(shape).replace("*", "\\*") if shape else "number"


def _plain(text: str) -> str:
    """Return untrusted text in one line, with nothing in it that Markdown or HTML would act on."""
    one_line = " ".join(text.split())
    return re.sub(r"([\\`*_{}\[\]()<>|#$!~&])", r"\\\1", one_line)

"""The dataset card: ``README.md`` inside a dataset, for those who find it on the Hugging Face Hub.

Whatever comes from the dataset is a stranger's text: in the front matter it passes through a YAML writer, in
the text all that could be markup is escaped.
"""

from __future__ import annotations

import hashlib
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
from cache_schema.storage.atomic_io import write_durably

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from cache_schema.describe.inspect import Summary
    from cache_schema.progress import Progress

CARD = "README.md"

HUB_LICENCES = (
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
)
"""Licences that the Hub knows by these names; any other is stated as ``other``, with its name."""

SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
)
"""Frames below which the Hub's size category applies."""

ORION_TERMS = (
    ("ORION", "Apache-2.0", "the teacher's code and weights"),
    (
        "Vicuna 1.5",
        "Llama 2 Community License Agreement",
        "the language model that the teacher was trained from",
    ),
)
ORION_PAPERS = (
    "Fu et al., *ORION: A Holistic End-to-End Autonomous Driving Framework by Vision-Language Instructed "
    "Action Generation*, arXiv 2503.19755",
)
BENCH2DRIVE_PAPERS = (
    "Jia et al., *Bench2Drive: Towards Multi-Ability Benchmarking of Closed-Loop End-To-End Autonomous "
    "Driving*, NeurIPS 2024 Datasets and Benchmarks",
)


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
    """A name for people."""
    return f"{summary.manifest.teacher.name} latents of {summary.manifest.data.name}"


def front_matter(summary: Summary, licence: str) -> str:
    """What the Hub reads, between its two lines of dashes."""
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
        "size_categories": [next((size for limit, size in SIZES if summary.frames < limit), "100M<n<1B")],
        # The Hub's viewer reads tables and images, not arrays.
        "viewer": False,
    }
    return "---\n" + yaml.safe_dump(fields, sort_keys=False, allow_unicode=True) + "---"


def _about(summary: Summary) -> str:
    teacher, data = summary.manifest.teacher, summary.manifest.data
    step = summary.manifest.frame_step
    text = (
        f"What the driving teacher {_plain(teacher.name)} said at {summary.frames:,} frames of "
        f"{summary.clips:,} clips of {_plain(data.name)}, so that students can be trained without running it "
        f"again. A latent dataset of format {summary.manifest.format_version}: one Zarr v3 group, "
        f"{_size(summary.stored_bytes)} of clips and {_size(summary.asset_bytes)} of small weights, every "
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
            f"{spec.dtype} {shape_text(spec.shape) if spec.shape else 'number'}",
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
        "bytes a frame",
        "what it is",
    )
    roles = (
        "`input`: the student reads it; `target`: the teacher said it; `truth`: the data says it. Types and "
        "shapes are those of decoded values; bytes are what is stored."
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
        "data": f"{data.name} at {data.frame_rate_hz:g} Hz",
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
    rows = []
    features = dataset.manifest.features
    progress.expect(len(features))
    for spec in features:
        found = statistics(dataset, spec.name)
        numbers = (found.mean, found.std, found.minimum, *found.percentiles, found.maximum)
        rows.append((f"`{spec.name}`", *(f"{number:.4g}" for number in numbers), f"`{found.bars}`"))
        progress.advance()
    head = ("feature", "mean", "std", "min", *(f"{share} %" for share in PERCENTILES), "max", "histogram")
    return (
        _table(head, rows)
        + "\n\nOver all values of all clips; histograms reach from the 1st to the 99th percentile."
    )


def _citation(dataset: LatentDataset, summary: Summary, authors: str | None, cite: str | None) -> str:
    digests = {clip: dataset.entry(clip).digest for clip in dataset.clips}
    digest = hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
    by = f"{authors}: " if authors else ""
    own = cite or f"{by}{title(summary)}, latent dataset, sha256 {digest}"
    data, teacher = summary.manifest.data, summary.manifest.teacher
    papers = (
        *(BENCH2DRIVE_PAPERS if data.name == "Bench2Drive" else ()),
        *(ORION_PAPERS if teacher.name.startswith("orion") else ()),
    )
    lines = [_plain(own), f"The sha256 over the digests of all its clips is `{digest}`."]
    if papers:
        lines.append("It stands on:\n\n" + "\n".join(f"- {paper}." for paper in papers))
    return "\n\n".join(lines)


def _licences(summary: Summary, licence: str) -> str:
    data, teacher = summary.manifest.data, summary.manifest.teacher
    rows = [("this dataset", _plain(licence), "as whoever shares it states")]
    rows.append((_plain(data.name), _plain(data.licence), "the raw data that it is derived from"))
    if teacher.name.startswith("orion") and not teacher.weights.startswith("random:"):
        rows += ORION_TERMS
    text = (
        "Latents are derived from data and weights that come with terms of their own. Whoever uses or shares "
        "this dataset is bound by all of these:\n\n" + _table(("what", "licence", "why"), rows)
    )
    if "ND" in re.split(r"[^A-Za-z]+", data.licence):
        text += (
            "\n\nThe licence of the raw data does not permit sharing derivatives of it. Whether latents are "
            "one is for whoever shares them to settle with its owners."
        )
    return text


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """A stranger's text in one line, with nothing in it that Markdown or HTML would act on."""
    one_line = " ".join(text.split())
    return re.sub(r"([\\`*_{}\[\]()<>|#$!~&])", r"\\\1", one_line)


def _size(nbytes: int) -> str:
    size, unit = float(nbytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.3g} {unit}"

"""Summary of a dataset: who made it, what it holds, how much of it there is. No array is opened."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, computed_field
from rich.console import Group

from cache_schema.dataset.reader import LatentDataset
from cache_schema.format.clip_files import feature_of
from cache_schema.format.ledger import Split
from cache_schema.format.manifest import Manifest
from cache_schema.format.ragged import shape_text
from cache_schema.terminal import size, table

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from cache_schema.format.features import FeatureSpec


FLOAT16_BYTES = 2
NO_GPU = "no GPU"
"""What a clip is counted as that no GPU computed, or that does not say which one did."""
LISTED_TEXTS = 12
"""Different texts of a tag that are still listed one by one."""


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True)


class Bytes(_Result):
    """Bytes of some values as they are stored, and as readers get them."""

    stored_bytes: int
    logical_bytes: int

    @computed_field
    @property
    def ratio(self) -> float | None:
        """Logical bytes per stored byte; None of nothing."""
        return self.logical_bytes / self.stored_bytes if self.stored_bytes else None


class FeatureSummary(Bytes):
    """One feature over all clips. Of a ragged lower triangle, logical bytes are those of the triangle."""

    name: str
    role: str
    shape: tuple[int | None, ...]
    dtype: str
    unit: str
    encoding: str
    bytes_per_frame: int | None
    """Of the values that readers get; None where it differs from frame to frame."""
    description: str


class ClipSummary(_Result):
    """One clip."""

    name: str
    split: Split
    tags: dict[str, str]
    frames: int
    stored_bytes: int
    wall_s: float
    writer: str
    gpu: str | None
    """Model of the GPU that computed it; None where none did."""


class Summary(Bytes):
    """What `teachonce inspect` shows."""

    path: str
    manifest: Manifest
    clips: int
    frames: int
    asset_bytes: int
    clips_by_split: dict[str, int]
    frames_by_split: dict[str, int]
    clips_by_tag: dict[str, dict[str, int]]
    """For each tag of any clip, the number of clips by text; without a text ``unknown``."""
    clips_by_gpu: dict[str, int]
    """Number of clips by the model of the GPU that computed them. Two models round differently."""
    features: tuple[FeatureSummary, ...]
    derived: dict[str, Bytes]
    """For each derived feature: the bytes of its inputs, and those that it would take itself in float16."""
    clip_table: tuple[ClipSummary, ...] | None
    """Every clip, sorted by name; None where it was not asked for."""

    def __rich__(self) -> Group:
        """Show it as lines and a table."""
        teacher, data = self.manifest.teacher, self.manifest.data
        splits = ", ".join(f"{count} {split}" for split, count in self.clips_by_split.items())
        facts = {
            "dataset": self.path,
            "teacher": f"{teacher.name}, {teacher.precision}, weights {teacher.weights}",
            "data": f"{data}, licence {data.licence}",
            "clips": f"{self.clips} ({splits or 'none yet'}), {self.frames:,} frames",
            **{tag: _counts(counts) for tag, counts in self.clips_by_tag.items()},
            **({"computed by": _counts(self.clips_by_gpu)} if {*self.clips_by_gpu} - {NO_GPU} else {}),
            "stored": f"{size(self.stored_bytes)}, and {size(self.asset_bytes)} of assets",
            "format": str(self.manifest.format_version),
        }
        for name, nbytes in self.derived.items():
            if nbytes.ratio is not None:
                facts[name] = (
                    f"from {size(nbytes.stored_bytes)} where it would take {size(nbytes.logical_bytes)}: "
                    f"{nbytes.ratio:.1f} times less"
                )
        width = max(map(len, facts))
        features = table("feature", "role", "one frame", "unit", "stored", "ratio")
        for spec in self.features:
            encoded = "" if spec.encoding == "full" else f"\nas {spec.encoding}"
            ratio = "" if spec.ratio is None else f"{spec.ratio:.2f}"
            one_frame = f"{spec.dtype}{shape_text(spec.shape)}{encoded}"
            features.add_row(spec.name, spec.role, one_frame, spec.unit, size(spec.stored_bytes), ratio)
        rows = [
            f"{clip.split:<5} {clip.frames:>6} {size(clip.stored_bytes):>8} {clip.wall_s:>6.1f} s  "
            + clip.name
            for clip in self.clip_table or ()
        ]
        head = [] if self.clip_table is None else ["split frames   stored  made in  clip"]
        return Group(*(f"{name:<{width}} {text}" for name, text in facts.items()), features, *head, *rows)


def inspect(where: str | Path, *, clips: bool = False) -> Summary:
    """Summarise a dataset from its manifest and ledger alone.

    Args:
        where: The dataset's folder or URL.
        clips: Also list every clip.

    Raises:
        DatasetError: There is no dataset, or its manifest or ledger is damaged.
    """
    dataset = LatentDataset.open(where)
    manifest = dataset.manifest
    clip_table, infos = [], []
    stored, values, frames_by_split = Counter[str](), Counter[str](), Counter[str]()
    by_gpu = Counter[str]()
    for entry in dataset.entries(digests=False):
        infos.append(entry.clip)
        by_gpu[entry.gpu or NO_GPU] += 1
        if clips:
            known = {
                "stored_bytes": entry.nbytes,
                "wall_s": entry.wall_s,
                "writer": entry.writer,
                "gpu": entry.gpu,
            }
            clip_table.append(ClipSummary(**dict(entry.clip), **known))
        frames_by_split[entry.clip.split] += entry.clip.frames
        values.update(entry.values)
        for path, file in entry.files.items():
            stored[feature_of(path)] += file.nbytes
    frames = frames_by_split.total()
    tags = {tag for clip in infos for tag in clip.tags}
    features = tuple(
        _feature(spec, stored[spec.name], frames=frames, values=values[spec.name])
        for spec in manifest.features
    )
    return Summary(
        path=str(where),
        manifest=manifest,
        clips=len(infos),
        frames=frames,
        stored_bytes=stored.total(),
        logical_bytes=sum(feature.logical_bytes for feature in features),
        asset_bytes=sum(asset.nbytes for asset in manifest.assets),
        clips_by_split=_count(clip.split for clip in infos),
        frames_by_split=dict(sorted(frames_by_split.items())),
        clips_by_gpu=dict(sorted(by_gpu.items())),
        clips_by_tag={tag: _count(clip.tags.get(tag, "") for clip in infos) for tag in sorted(tags)},
        features=features,
        derived={
            name: Bytes(
                stored_bytes=sum(stored[source] for source in derivation.inputs),
                logical_bytes=frames * math.prod(derivation.spec.fixed_shape) * FLOAT16_BYTES,
            )
            for name, derivation in dataset.derivations.items()
        },
        clip_table=tuple(clip_table) if clips else None,
    )


def _feature(spec: FeatureSpec, stored_bytes: int, *, frames: int, values: int) -> FeatureSummary:
    per_frame = None if spec.ragged else spec.nbytes
    nbytes = values * np.dtype(spec.dtype).itemsize if per_frame is None else frames * per_frame
    return FeatureSummary(
        **spec.model_dump(include={"name", "role", "shape", "dtype", "unit", "encoding", "description"}),
        bytes_per_frame=per_frame,
        stored_bytes=stored_bytes,
        logical_bytes=nbytes,
    )


def _count(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(value or "unknown" for value in values).items()))


def _counts(counts: dict[str, int]) -> str:
    """Return the counts by text; only the number of texts where that would be a long list."""
    if len(counts) > LISTED_TEXTS:
        return f"{len(counts)} different"
    return ", ".join(f"{count} {text}" for text, count in counts.items())

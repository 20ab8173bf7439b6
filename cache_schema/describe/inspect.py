"""The first look at a dataset: who made it, what it holds, how much of it there is. No array is opened."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, computed_field

from cache_schema.dataset.reader import LatentDataset
from cache_schema.format.ledger import Split
from cache_schema.format.manifest import Manifest
from cache_schema.vocabulary.orion_tokens import SOURCES, VISION_TOKENS, vision_tokens_spec

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from cache_schema.format.ledger import LedgerEntry


FLOAT16_BYTES = 2


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True)


class Bytes(_Told):
    """What some values take on the disk, and what they take in a reader's hands."""

    stored_bytes: int
    logical_bytes: int

    @computed_field
    @property
    def ratio(self) -> float | None:
        """How many times less is stored; None of nothing."""
        return self.logical_bytes / self.stored_bytes if self.stored_bytes else None


class FeatureSummary(Bytes):
    """One feature over all clips."""

    name: str
    role: str
    shape: tuple[int, ...]
    dtype: str
    unit: str
    encoding: str
    nbytes_a_frame: int
    """Of the values that readers get."""
    description: str


class ClipSummary(_Told):
    """One clip."""

    name: str
    split: Split
    town: str
    scenario: str
    weather: str
    frames: int
    stored_bytes: int
    wall_s: float
    writer: str


class Summary(Bytes):
    """What `teachonce inspect` shows."""

    path: str
    manifest: Manifest
    clips: int
    frames: int
    asset_bytes: int
    clips_by_split: dict[str, int]
    frames_by_split: dict[str, int]
    clips_by_town: dict[str, int]
    clips_by_scenario: dict[str, int]
    clips_by_weather: dict[str, int]
    features: tuple[FeatureSummary, ...]
    vision_tokens: Bytes | None
    """What they are derived from, and what they would take at full width in float16; None where they are not
    derived."""
    clip_table: tuple[ClipSummary, ...] | None
    """Every clip, sorted by name; None where it was not asked for."""


def inspect(where: str | Path, *, clips: bool = False) -> Summary:
    """Summarise a dataset from its manifest and ledger alone.

    Args:
        where: The dataset's folder or URL.
        clips: Also tell of every clip.

    Raises:
        DatasetError: There is no dataset, or its manifest or ledger is damaged.
    """
    dataset = LatentDataset.open(where)
    manifest = dataset.manifest
    infos = []
    table = []
    stored, frames_by_split = Counter[str](), Counter[str]()
    for clip in dataset.clips:
        entry = dataset.entry(clip)
        infos.append(entry.clip)
        frames_by_split[entry.clip.split] += entry.clip.frames
        for path, file in entry.files.items():
            stored[feature_of(path)] += file.nbytes
        if clips:
            table.append(_clip(entry))
    frames = frames_by_split.total()
    features = tuple(
        FeatureSummary(
            name=spec.name,
            role=spec.role,
            shape=spec.shape,
            dtype=spec.dtype,
            unit=spec.unit,
            encoding=spec.encoding,
            nbytes_a_frame=spec.nbytes,
            stored_bytes=stored[spec.name],
            logical_bytes=frames * spec.nbytes,
            description=spec.description,
        )
        for spec in manifest.features
    )
    derived = None if manifest.feature(VISION_TOKENS) else vision_tokens_spec(manifest)
    return Summary(
        path=str(where),
        manifest=manifest,
        clips=len(infos),
        frames=frames,
        stored_bytes=stored.total(),
        logical_bytes=sum(feature.logical_bytes for feature in features),
        asset_bytes=sum(asset.nbytes for asset in manifest.assets),
        clips_by_split=_count(info.split for info in infos),
        frames_by_split=dict(sorted(frames_by_split.items())),
        clips_by_town=_count(info.town for info in infos),
        clips_by_scenario=_count(info.scenario for info in infos),
        clips_by_weather=_count(info.weather for info in infos),
        features=features,
        vision_tokens=None
        if derived is None
        else Bytes(
            stored_bytes=sum(stored[source] for source in SOURCES),
            logical_bytes=frames * math.prod(derived.shape) * FLOAT16_BYTES,
        ),
        clip_table=tuple(table) if clips else None,
    )


def feature_of(path: str) -> str:
    """Feature of a clip's file: ``x`` for ``x/...`` and ``x.scale/...``, empty for the clip's group."""
    array, slash, _ = path.partition("/")
    return array.partition(".")[0] if slash else ""


def _count(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(value or "unknown" for value in values).items()))


def _clip(entry: LedgerEntry) -> ClipSummary:
    return ClipSummary(
        **entry.clip.model_dump(include={"name", "split", "town", "scenario", "weather", "frames"}),
        stored_bytes=entry.nbytes,
        wall_s=entry.wall_s,
        writer=entry.writer,
    )

"""The first look at a dataset: who made it, what it holds, how much of it there is."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from cache_schema.manifest import Manifest
from cache_schema.store import LatentDataset

if TYPE_CHECKING:
    from pathlib import Path


class FeatureSummary(BaseModel):
    """Size of one feature over all clips."""

    model_config = ConfigDict(frozen=True)

    name: str
    role: str
    shape: tuple[int, ...]
    dtype: str
    unit: str
    nbytes_a_frame: int
    stored_bytes: int
    description: str


class Summary(BaseModel):
    """What `teachonce inspect` shows."""

    model_config = ConfigDict(frozen=True)

    path: str
    manifest: Manifest
    clips: int
    frames: int
    stored_bytes: int
    asset_bytes: int
    clips_by_split: dict[str, int]
    frames_by_split: dict[str, int]
    features: tuple[FeatureSummary, ...]


def inspect(path: Path) -> Summary:
    """Summarise the dataset at ``path`` from its manifest and ledger alone."""
    dataset = LatentDataset.open(path)
    entries = [dataset.entry(clip) for clip in dataset.clips]
    clips, frames, stored = Counter[str](), Counter[str](), Counter[str]()
    for entry in entries:
        clips[entry.clip.split] += 1
        frames[entry.clip.split] += entry.clip.frames
        for name, file in entry.files.items():
            stored[name.split("/")[0]] += file.nbytes
    return Summary(
        path=str(path),
        manifest=dataset.manifest,
        clips=len(entries),
        frames=frames.total(),
        stored_bytes=stored.total(),
        asset_bytes=sum(asset.nbytes for asset in dataset.manifest.assets),
        clips_by_split=dict(clips),
        frames_by_split=dict(frames),
        features=tuple(
            FeatureSummary(
                name=spec.name,
                role=spec.role,
                shape=spec.shape,
                dtype=spec.dtype,
                unit=spec.unit,
                nbytes_a_frame=spec.nbytes,
                stored_bytes=stored[spec.name],
                description=spec.description,
            )
            for spec in dataset.manifest.features
        ),
    )

"""How far two latent datasets of the same clips are apart, feature by feature.

Such as one by a teacher in float32 and one by the same teacher quantised. Features are compared place by
place: where a teacher orders rows by score, as ORION does with objects that it remembers, two rows that
change places count as different.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cache_schema.dataset.blocks import frame_blocks
from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import RequestError

if TYPE_CHECKING:
    from pathlib import Path

    from cache_schema.format.features import FeatureSpec


@dataclass(frozen=True)
class FeatureComparison:
    """One feature over all frames, values of the first dataset as a, of the second as b."""

    feature: str
    relative_error: float
    """||a - b|| / ||a|| over all values; 0 where both are zero, infinite where a alone is."""
    cosine: float
    """Cosine between the two values of a frame, mean over frames; 1 where both are zero, 0 where one is."""
    largest_difference: float
    """Largest |a - b|, in the feature's unit."""


@dataclass(frozen=True)
class Comparison:
    """Two datasets, compared in what both hold."""

    clips: tuple[str, ...]
    """Clips that both hold."""
    frames: int
    """Frames of these clips."""
    features: tuple[FeatureComparison, ...]
    """Features that both hold, in the order of the first."""


def compare(a: Path, b: Path) -> Comparison:
    """Compare all clips and features that two datasets both hold.

    Args:
        a: Folder of the dataset that counts as right.
        b: Folder of the other one.

    Raises:
        DatasetError: There is no dataset, or it is damaged.
        RequestError: They share no clip or no feature, or a clip's length or a feature's shape differs.
    """
    one, other = LatentDataset.open(a), LatentDataset.open(b)
    clips = tuple(clip for clip in one.clips if clip in set(other.clips))
    if not clips:
        raise RequestError(
            f"{a} and {b} have no clip in common",
            expected="two datasets of the same raw data",
            repair="extract the same clips with both teachers",
        )
    features = _shared_features(one, other)
    for clip in clips:
        frames = one.clip(clip).frames, other.clip(clip).frames
        if frames[0] != frames[1]:
            raise RequestError(
                f"clip {clip!r} has {frames[0]} frames in {a} and {frames[1]} in {b}",
                expected="two datasets of the same raw data",
                repair="extract the clip again from one copy of the raw data",
            )
    sums = {spec.name: _Sums() for spec in features}
    for clip in clips:
        for spec in features:
            for block in frame_blocks(one, clip, spec.name):
                sums[spec.name].add(one.read(clip, spec.name, block), other.read(clip, spec.name, block))
    return Comparison(
        clips=clips,
        frames=sum(one.clip(clip).frames for clip in clips),
        features=tuple(sums[spec.name].result(spec.name) for spec in features),
    )


def _shared_features(one: LatentDataset, other: LatentDataset) -> list[FeatureSpec]:
    pairs = [(spec, other.manifest.feature(spec.name)) for spec in one.manifest.features]
    shared = [(spec, theirs) for spec, theirs in pairs if theirs is not None]
    for spec, theirs in shared:
        if spec.shape != theirs.shape:
            raise RequestError(
                f"feature {spec.name!r} has shape {spec.shape} in {one.path} "
                f"and {theirs.shape} in {other.path}",
                expected="the same shape in both",
                repair="compare datasets of teachers of the same size",
            )
    if not shared:
        raise RequestError(
            f"{one.path} and {other.path} have no feature in common",
            expected=f"one of {', '.join(spec.name for spec in one.manifest.features)} in both",
            repair="compare datasets of teachers that say the same things",
        )
    return [spec for spec, _ in shared]


class _Sums:
    """What is known of one feature after some frames, in float64."""

    def __init__(self) -> None:
        self.squares = self.squared_differences = self.cosines = self.largest = 0.0
        self.frames = 0

    def add(self, a: np.ndarray, b: np.ndarray) -> None:
        """Take in values (frames, ...) of both."""
        a, b = (values.reshape(len(values), -1).astype(np.float64) for values in (a, b))
        difference = a - b
        of_a, of_b = (np.linalg.norm(values, axis=1) for values in (a, b))
        products, lengths = (a * b).sum(axis=1), of_a * of_b
        both_zero = (of_a == 0) & (of_b == 0)
        self.squares += float((of_a**2).sum())
        self.squared_differences += float((difference**2).sum())
        self.cosines += float(
            np.where(lengths > 0, products / np.where(lengths > 0, lengths, 1), both_zero).sum()
        )
        self.largest = max(self.largest, float(abs(difference).max()))
        self.frames += len(a)

    def result(self, feature: str) -> FeatureComparison:
        """The comparison of all frames taken in."""
        error = math.sqrt(self.squared_differences)
        relative = error / math.sqrt(self.squares) if self.squares else (math.inf if error else 0.0)
        return FeatureComparison(feature, relative, self.cosines / self.frames, self.largest)

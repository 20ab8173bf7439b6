"""How far two latent datasets of the same clips are apart, feature by feature.

Such as one by a teacher in float32 and one by the same teacher quantised. Features are compared place by
place: where a teacher orders rows by score, two rows that change places count as different.

Dimension letters: n frames of a block.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Group

from cache_schema.dataset.reader import LatentDataset
from cache_schema.describe.error_sums import MeanCosine, relative_error, value_pairs
from cache_schema.errors import RequestError
from cache_schema.format.ragged import shape_text
from cache_schema.progress import SILENT
from cache_schema.terminal import table

if TYPE_CHECKING:
    from pathlib import Path

    from cache_schema.format.features import FeatureSpec
    from cache_schema.progress import Progress


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

    def __rich__(self) -> Group:
        """Show it as a table."""
        shown = table("feature", "relative error", "cosine", "largest difference")
        for row in self.features:
            numbers = f"{row.relative_error:.2e}", f"{row.cosine:.6f}", f"{row.largest_difference:.2e}"
            shown.add_row(row.feature, *numbers)
        return Group(shown, f"{self.frames:,} frames of the {len(self.clips)} clips that both hold")


def compare(a: Path, b: Path, *, progress: Progress = SILENT) -> Comparison:
    """Compare all clips and features that two datasets both hold.

    Args:
        a: Folder of the dataset that counts as right.
        b: Folder of the other one.
        progress: Counts clips.

    Raises:
        DatasetError: There is no dataset, or it is damaged.
        RequestError: They share no clip or no feature, or a clip's length or a value's shape differs.
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
    sums = {spec.name: _FrameSums() for spec in features}
    progress.expect(len(clips))
    for clip in clips:
        for spec in features:
            for values in value_pairs(one, other, clip, spec):
                sums[spec.name].add(*values)
        progress.advance()
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
                f"feature {spec.name!r} has shape {shape_text(spec.shape)} in {one.path} "
                f"and {shape_text(theirs.shape)} in {other.path}",
                expected="the same shape in both",
                repair="compare datasets of teachers of the same size",
            )
    if not shared:
        raise RequestError(
            f"{one.path} and {other.path} have no feature in common",
            expected=f"one of {', '.join(spec.name for spec in one.manifest.features)} in both",
            repair="compare datasets of teachers with the same outputs",
        )
    return [spec for spec, _ in shared]


class _FrameSums:
    """Sums over some frames of a feature, in float64."""

    def __init__(self) -> None:
        self.squares = self.squared_errors = self.largest = 0.0
        self.cosine = MeanCosine()

    def add(self, a: np.ndarray, b: np.ndarray) -> None:
        """Take in values (n, ...) of both."""
        a, b = (values.reshape(len(values), math.prod(values.shape[1:])) for values in (a, b))
        a, b = a.astype(np.float64), b.astype(np.float64)
        difference = a - b
        self.squares += float((a**2).sum())
        self.squared_errors += float((difference**2).sum())
        self.cosine.add((a * b).sum(1), (a * a).sum(1), (b * b).sum(1))
        self.largest = max(self.largest, float(abs(difference).max(initial=0)))

    def result(self, feature: str) -> FeatureComparison:
        """Return the comparison of all frames taken in."""
        relative = relative_error(self.squared_errors, self.squares)
        return FeatureComparison(feature, relative, self.cosine.mean, self.largest)

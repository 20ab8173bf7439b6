"""How far a dataset's values are from those of another that holds the same clips in other encodings.

Judged by the channel: the error of a whole frame hides that small channels may be lost beside massive ones,
and so does the cosine.

Dimension letters: n frames of a block, R rows, C channels (the last axis), D width of a derived row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cache_schema.dataset.blocks import frame_blocks
from cache_schema.format.clip_files import feature_of

if TYPE_CHECKING:
    from cache_schema.dataset.reader import LatentDataset
    from cache_schema.format.features import FeatureSpec


@dataclass(frozen=True)
class EncodingLoss:
    """One feature over all clips, as it was and as it is read now."""

    feature: str
    encoding: str
    nbytes_before: int
    nbytes_after: int
    relative_error: float
    """||error|| / ||values|| over everything."""
    channel_error_median: float
    """Median over channels of the channel's rms error in its own standard deviations: what a student that
    whitens its input sees. Of a constant channel, in its own magnitude."""
    channel_error_max: float
    """The same of the worst channel."""
    cosine: float
    """Mean cosine between the vectors of all channels before and after."""
    derived_cosine: dict[str, float]
    """The same of the features that are derived of it through a projection, by name."""


def measure(before: LatentDataset, after: LatentDataset, feature: str) -> EncodingLoss:
    """Compare a feature, over all clips of ``before``, with what ``after`` gives for it."""
    spec, now = before.feature(feature), after.feature(feature)
    error = _Error(spec, _grams(before, feature))
    for clip in before.clips:
        for frames in frame_blocks(before, clip, feature):
            error.add(before.read(clip, feature, frames), after.read(clip, feature, frames))
    return EncodingLoss(
        feature=feature,
        encoding=now.encoding,
        nbytes_before=_nbytes(before, before.clips, feature),
        nbytes_after=_nbytes(after, before.clips, feature),
        **error.result(),
    )


def _nbytes(dataset: LatentDataset, clips: tuple[str, ...], feature: str) -> int:
    return sum(
        file.nbytes
        for clip in clips
        for path, file in dataset.entry(clip).files.items()
        if feature_of(path) == feature
    )


def _grams(dataset: LatentDataset, feature: str) -> dict[str, list[tuple[slice, np.ndarray]]]:
    """For each feature derived of this one: rows, and G with (Wa + b)·(Wa' + b) = [a, 1] G [a', 1].

    G is (C + 1, C + 1), so that cosines of wide rows cost what they would at the width of what is stored.
    """
    grams: dict[str, list[tuple[slice, np.ndarray]]] = {}
    for name, derivation in dataset.derivations.items():
        maps = dataset.derivation_maps(name) if feature in derivation.inputs else {}
        for segment in derivation.segments:
            if segment.input == feature and segment.projection is not None:
                weight, bias = (maps[f"{segment.projection}.{part}"] for part in ("weight", "bias"))
                affine = np.column_stack((weight, bias))  # (D, C + 1)
                rows = slice(segment.begin, segment.begin + segment.length)
                grams.setdefault(name, []).append((rows, affine.T.astype(np.float64) @ affine))
    return grams


class _Error:
    """Sums over some frames of a feature, in float64."""

    def __init__(self, spec: FeatureSpec, grams: dict[str, list[tuple[slice, np.ndarray]]]) -> None:
        channels = (spec.shape[-1] or 1) if spec.shape else 1
        self.grams = grams
        self.vectors = 0
        self.cosines = 0.0
        self.derived_cosines, self.derived_vectors = dict.fromkeys(grams, 0.0), dict.fromkeys(grams, 0)
        self.sums, self.squares, self.squared_errors = np.zeros((3, channels))

    def add(self, before: np.ndarray, after: np.ndarray) -> None:
        """Take in values (n, *shape) of both."""
        channels = len(self.sums)
        a, b = (values.reshape(-1, channels).astype(np.float64) for values in (before, after))  # (n * ..., C)
        self.sums += a.sum(axis=0)
        self.squares += (a**2).sum(axis=0)
        self.squared_errors += ((b - a) ** 2).sum(axis=0)
        self.cosines += float(_cosine((a * b).sum(1), (a * a).sum(1), (b * b).sum(1)).sum())
        self.vectors += len(a)
        for name, segments in self.grams.items():
            for rows, gram in segments:
                x, y = (_with_one(values[:, rows]) for values in (before, after))  # (n * R, C + 1)
                lifted = x @ gram
                products, lengths = (lifted * y).sum(1), (lifted * x).sum(1)
                self.derived_cosines[name] += float(_cosine(products, lengths, ((y @ gram) * y).sum(1)).sum())
                self.derived_vectors[name] += len(x)

    def result(self) -> dict[str, Any]:
        """Fields of ``EncodingLoss``."""
        magnitudes = np.sqrt(self.squares / self.vectors)
        variances = self.squares / self.vectors - (self.sums / self.vectors) ** 2
        # What is left of a constant channel's variance is rounding.
        constant = variances <= 1e-12 * magnitudes**2
        scales = np.where(constant, magnitudes, np.sqrt(np.maximum(variances, 0)))
        errors = np.sqrt(self.squared_errors / self.vectors)
        # A channel of zeros is exact, or infinitely wrong.
        by_channel = np.where(errors > 0, np.inf, 0.0)
        np.divide(errors, scales, out=by_channel, where=scales > 0)
        total = float(self.squares.sum())
        wrong = float(self.squared_errors.sum())
        return {
            "relative_error": math.sqrt(wrong / total) if total else (math.inf if wrong else 0.0),
            "channel_error_median": float(np.median(by_channel)),
            "channel_error_max": float(by_channel.max()),
            "cosine": self.cosines / self.vectors,
            "derived_cosine": {
                name: self.derived_cosines[name] / self.derived_vectors[name] for name in self.grams
            },
        }


def _with_one(queries: np.ndarray) -> np.ndarray:
    """(n, R, C) to (n * R, C + 1) float64, for a projection with a bias."""
    flat = queries.reshape(-1, queries.shape[-1]).astype(np.float64)
    return np.column_stack((flat, np.ones(len(flat))))


def _cosine(product: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of vectors with squared lengths a and b; 1 where both are zero, 0 where one is."""
    lengths = np.sqrt(a * b)
    return np.where(lengths > 0, product / np.where(lengths > 0, lengths, 1), (a == 0) & (b == 0))

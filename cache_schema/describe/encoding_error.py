"""How far a dataset's values are from those of another that holds the same clips in other encodings.

Judged by the channel: the error of a whole frame hides that small channels may be lost beside massive ones,
and so does the cosine.

Dimension letters: n frames of a block, Q queries, C channels (the last axis), D width of a vision token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cache_schema.dataset.copy_clips import frame_blocks
from cache_schema.describe.inspect import feature_of
from cache_schema.vocabulary.orion_tokens import (
    HEADS,
    PROJECTION_OF,
    SOURCES,
    check_heads,
    vision_tokens_spec,
)

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
    token_cosine: float | None
    """The same of the vision tokens that they are projected to; None where there is no projection."""


def measure(before: LatentDataset, after: LatentDataset, feature: str) -> EncodingLoss:
    """Compare a feature, over all clips of ``before``, with what ``after`` gives for it."""
    spec, now = before.feature(feature), after.feature(feature)
    error = _Error(spec, _token_metric(before, spec))
    for clip in before.clips:
        for frames in frame_blocks(before.clip(clip).frames, spec):
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


def _token_metric(dataset: LatentDataset, spec: FeatureSpec) -> dict[tuple[int, int], np.ndarray] | None:
    """For each segment's (begin, end): G with (W a + b)·(W a' + b) = [a, 1] G [a', 1], (C + 1, C + 1).

    So cosines of tokens cost what they would at the width of queries.
    """
    if spec.name != SOURCES[0] or vision_tokens_spec(dataset.manifest) is None:
        return None
    heads = dataset.asset(HEADS)
    check_heads(heads, *(dataset.feature(source) for source in SOURCES))
    metric, begin = {}, 0
    for segment, length in spec.segments:
        head = PROJECTION_OF[segment]
        affine = np.column_stack((heads[f"{head}.weight"], heads[f"{head}.bias"]))  # (D, C + 1)
        metric[begin, begin + length] = affine.T.astype(np.float64) @ affine
        begin += length
    return metric


class _Error:
    """Sums over some frames of a feature, in float64."""

    def __init__(self, spec: FeatureSpec, metric: dict[tuple[int, int], np.ndarray] | None) -> None:
        channels = spec.shape[-1] if spec.shape else 1
        self.metric = metric
        self.vectors = self.tokens = 0
        self.cosines = self.token_cosines = 0.0
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
        for (begin, end), gram in (self.metric or {}).items():
            x, y = (_with_one(values[:, begin:end]) for values in (before, after))  # (n * Q, C + 1)
            lifted = x @ gram
            products, lengths = (lifted * y).sum(1), (lifted * x).sum(1)
            self.token_cosines += float(_cosine(products, lengths, ((y @ gram) * y).sum(1)).sum())
            self.tokens += len(x)

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
            "token_cosine": self.token_cosines / self.tokens if self.tokens else None,
        }


def _with_one(queries: np.ndarray) -> np.ndarray:
    """(n, Q, C) to (n * Q, C + 1) float64, for a projection with a bias."""
    flat = queries.reshape(-1, queries.shape[-1]).astype(np.float64)
    return np.column_stack((flat, np.ones(len(flat))))


def _cosine(product: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of vectors with squared lengths a and b; 1 where both are zero, 0 where one is."""
    lengths = np.sqrt(a * b)
    return np.where(lengths > 0, product / np.where(lengths > 0, lengths, 1), (a == 0) & (b == 0))

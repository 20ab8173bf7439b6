"""How far a dataset's values are from those of another that holds the same clips in other encodings.

Judged channel by channel: the error of a whole frame hides that small channels may be lost beside massive
ones, and so does the cosine.

Dimension letters: n frames of a block, R rows, C channels (the last axis), D width of a derived row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Group

from cache_schema.describe.error_sums import MeanCosine, relative_error, value_pairs
from cache_schema.format.clip_files import feature_of
from cache_schema.terminal import size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cache_schema.dataset.reader import LatentDataset
    from cache_schema.format.features import FeatureSpec


@dataclass(frozen=True)
class EncodingError:
    """One feature over all clips, as it was and as it is read now."""

    feature: str
    encoding: str
    nbytes_before: int
    nbytes_after: int
    relative_error: float
    """||error|| / ||values|| over everything."""
    channel_error_median: float
    """Median over channels of the channel's rms error in its own standard deviations: the error in the eyes
    of a student that whitens its input. Of a constant channel, in its own magnitude."""
    channel_error_max: float
    """The same of the worst channel."""
    cosine: float
    """Mean cosine between the vectors of all channels before and after."""
    derived_cosine: dict[str, float]
    """The same of the features that are derived from it through a projection, by name."""

    def __rich__(self) -> Group:
        """Show it in three lines."""
        derived = "".join(
            f", of the derived {name} {value:.7f}" for name, value in self.derived_cosine.items()
        )
        return Group(
            f"{self.feature} as {self.encoding}: {size(self.nbytes_before)} before, "
            f"{size(self.nbytes_after)} after",
            f"  relative error {self.relative_error:.1e}; by the channel "
            f"{self.channel_error_median:.1e} (median), {self.channel_error_max:.1e} (largest)",
            f"  cosine {self.cosine:.7f}{derived}",
        )


def encoding_error(before: LatentDataset, after: LatentDataset, feature: str) -> EncodingError:
    """Compare a feature, over all clips of ``before``, with its values in ``after``."""
    spec = before.feature(feature)
    sums = _ChannelSums(spec, _grams(before, feature))
    for clip in before.clips:
        for values in value_pairs(before, after, clip, spec):
            sums.add(*values)
    median, largest = sums.channel_errors()
    return EncodingError(
        feature=feature,
        encoding=after.feature(feature).encoding,
        nbytes_before=_nbytes(before, before.clips, feature),
        nbytes_after=_nbytes(after, before.clips, feature),
        relative_error=relative_error(float(sums.squared_errors.sum()), float(sums.squares.sum())),
        channel_error_median=median,
        channel_error_max=largest,
        cosine=sums.cosine.mean,
        derived_cosine={name: mean.mean for name, mean in sums.derived_cosines.items()},
    )


def _nbytes(dataset: LatentDataset, clips: Iterable[str], feature: str) -> int:
    return sum(
        file.nbytes
        for clip in clips
        for path, file in dataset.entry(clip).files.items()
        if feature_of(path) == feature
    )


def _grams(dataset: LatentDataset, feature: str) -> dict[str, list[tuple[slice, np.ndarray]]]:
    """For each feature derived from this one: rows, and G with (Wa + b)·(Wa' + b) = [a, 1] G [a', 1].

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


class _ChannelSums:
    """Sums over some frames of a feature, channel by channel, in float64."""

    def __init__(self, spec: FeatureSpec, grams: dict[str, list[tuple[slice, np.ndarray]]]) -> None:
        channels = (spec.shape[-1] or 1) if spec.shape else 1
        self.sums, self.squares, self.squared_errors = np.zeros((3, channels))
        self.cosine = MeanCosine()
        self.derived_cosines = {name: MeanCosine() for name in grams}
        self._grams = grams

    def add(self, before: np.ndarray, after: np.ndarray) -> None:
        """Take in values (n, *shape) of both."""
        channels = len(self.sums)
        a, b = (values.reshape(-1, channels).astype(np.float64) for values in (before, after))  # (n * R, C)
        self.sums += a.sum(axis=0)
        self.squares += (a**2).sum(axis=0)
        self.squared_errors += ((b - a) ** 2).sum(axis=0)
        self.cosine.add((a * b).sum(1), (a * a).sum(1), (b * b).sum(1))
        for name, segments in self._grams.items():
            for rows, gram in segments:
                x, y = (_with_one(values, rows) for values in (before, after))  # (n * R, C + 1)
                lifted = x @ gram
                lengths = (lifted * x).sum(1), ((y @ gram) * y).sum(1)
                self.derived_cosines[name].add((lifted * y).sum(1), *lengths)

    def channel_errors(self) -> tuple[float, float]:
        """Return the median and the largest over channels of rms errors in standard deviations."""
        vectors = max(1, self.cosine.vectors)
        magnitudes = np.sqrt(self.squares / vectors)
        variances = self.squares / vectors - (self.sums / vectors) ** 2
        # What is left of a constant channel's variance is rounding.
        constant = variances <= 1e-12 * magnitudes**2
        scales = np.where(constant, magnitudes, np.sqrt(np.maximum(variances, 0)))
        errors = np.sqrt(self.squared_errors / vectors)
        # A channel of zeros is exact, or infinitely wrong.
        by_channel = np.where(errors > 0, np.inf, 0.0)
        np.divide(errors, scales, out=by_channel, where=scales > 0)
        return float(np.median(by_channel)), float(by_channel.max())


def _with_one(values: np.ndarray, rows: slice) -> np.ndarray:
    """Rows of values (n, R, C), or of (n, C), as (n * rows, C + 1) float64, for a projection with a bias."""
    rows_of = (values[:, None] if values.ndim == 2 else values)[:, rows]
    flat = rows_of.reshape(-1, values.shape[-1]).astype(np.float64)
    return np.column_stack((flat, np.ones(len(flat))))

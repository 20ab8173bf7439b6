"""Several datasets side by side, joined by clip and frame: outputs of several teachers for the same data."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from cache_schema.dataset.blocks import frame_blocks
from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import IdentityError, RequestError
from cache_schema.format.clip_files import feature_of
from cache_schema.storage.atomic_io import sha256_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import zarr
    from dask.array import Array as DaskArray

    from cache_schema.format.derivations import Derivation
    from cache_schema.format.features import FeatureSpec
    from cache_schema.format.ledger import ClipInfo, FileRecord, LedgerEntry
    from cache_schema.format.ragged import FrameIndex

FRAME_INDEX = "frame_index"
"""Feature that numbers the frames of the raw clip; where datasets hold it, it must agree."""


def open_dataset(where: str | Path, *more: str | Path) -> LatentDataset | JoinedDataset:
    """Open the dataset at a path or URL; of several, all of them joined.

    Raises:
        DatasetError: There is no dataset, or it is of an unknown format.
        IdentityError: The datasets are not of the same clips and frames, or have different inputs.
        RequestError: Two of them hold different features of one name.
        StorageError: The storage cannot be reached.
    """
    datasets = [LatentDataset.open(address) for address in (where, *more)]
    return datasets[0] if len(datasets) == 1 else JoinedDataset(datasets)


class JoinedDataset:
    """Datasets of the same clips and frames, read like one that holds the features of all.

    Ground truth and inputs that several of them hold are read from the first. Inputs must be equal in all, or
    a student would read what one of the teachers has not seen.

    Args:
        datasets: The datasets, in the order in which they take precedence.

    Raises:
        IdentityError: They are not of the same clips and frames, or have different inputs.
        RequestError: Two of them hold different features of one name.
    """

    def __init__(self, datasets: Sequence[LatentDataset]) -> None:
        self.datasets = tuple(datasets)
        for other in self.datasets[1:]:
            _refuse_other_frames(self.datasets[0], other)
        self._holders: dict[str, LatentDataset] = {}
        for dataset in self.datasets:
            for name in (*(spec.name for spec in dataset.manifest.features), *dataset.derivations):
                _refuse_other_feature(name, self._holders.setdefault(name, dataset), dataset)
        for number, dataset in enumerate(self.datasets):
            inputs = [spec.name for spec in dataset.manifest.features if spec.role == "input"]
            for first in self.datasets[:number]:
                _refuse_other_values(
                    [name for name in inputs if self._holders[name] is first], first, dataset
                )

    def __reduce__(self) -> tuple[object, ...]:
        """Travel to other processes as addresses."""
        return type(self), (self.datasets,)

    def __str__(self) -> str:
        return " + ".join(map(str, self.datasets))

    @property
    def clips(self) -> tuple[str, ...]:
        """Names of the clips, sorted; all datasets have the same."""
        return self.datasets[0].clips

    def clip(self, name: str) -> ClipInfo:
        """Return what the first dataset has on a clip; length and split are those of all."""
        return self.datasets[0].clip(name)

    @property
    def fingerprint(self) -> str:
        """sha256 over the fingerprints of all datasets, in order."""
        fingerprints = [dataset.fingerprint for dataset in self.datasets]
        return sha256_bytes(json.dumps(fingerprints).encode())

    def holder(self, feature: str) -> LatentDataset:
        """Return the dataset that a feature is read from, stored or derived.

        Raises:
            RequestError: There is no such feature.
        """
        if feature not in self._holders:
            self.require([feature])
        return self._holders[feature]

    def require(self, features: Iterable[str]) -> None:
        """Check that the datasets together store all of ``features``.

        Raises:
            RequestError: Some are missing.
        """
        stored = [spec.name for dataset in self.datasets for spec in dataset.manifest.features]
        missing = sorted(set(features) - set(stored))
        if missing:
            raise RequestError(
                f"{self} have no feature {', '.join(missing)}",
                expected=f"one of {', '.join(dict.fromkeys(stored))}",
                repair="choose losses that need only these, or join a dataset that holds the others",
            )

    def feature(self, name: str) -> FeatureSpec:
        """See ``LatentDataset.feature``."""
        return self.holder(name).feature(name)

    def array(self, clip: str, stored: str) -> zarr.Array:
        """See ``LatentDataset.array``."""
        return self.holder(feature_of(f"{stored}/")).array(clip, stored)

    def frame_index(self, clip: str, feature: str) -> FrameIndex:
        """See ``LatentDataset.frame_index``."""
        return self.holder(feature).frame_index(clip, feature)

    def stored_at(self, clip: str, feature: str) -> np.ndarray:
        """See ``LatentDataset.stored_at``."""
        return self.holder(feature).stored_at(clip, feature)

    def stored(
        self, clip: str, feature: str, frames: slice | np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """See ``LatentDataset.stored``."""
        return self.holder(feature).stored(clip, feature, frames)

    def read(self, clip: str, feature: str, frames: slice | np.ndarray | int | None = None) -> Any:
        """See ``LatentDataset.read``."""
        return self.holder(feature).read(clip, feature, frames)

    def dask(self, feature: str, clips: Iterable[str] | None = None) -> DaskArray:
        """See ``LatentDataset.dask``."""
        return self.holder(feature).dask(feature, clips)

    @property
    def derivations(self) -> dict[str, Derivation]:
        """Features that are computed when they are read, by name."""
        return {
            name: holder.derivations[name]
            for name, holder in self._holders.items()
            if name in holder.derivations
        }

    def derivation_maps(self, name: str) -> dict[str, np.ndarray]:
        """See ``LatentDataset.derivation_maps``."""
        return self.holder(name).derivation_maps(name)

    def asset(self, stem: str) -> dict[str, np.ndarray]:
        """Return the tensors of an asset of the one dataset that has it.

        Raises:
            RequestError: None has it, or two have different ones.
            DatasetError: The file is missing or is not the one that the manifest names.
        """
        holders = {
            asset.sha256: dataset
            for dataset in reversed(self.datasets)
            if (asset := dataset.manifest.asset(stem)) is not None
        }
        if len(holders) > 1:
            raise RequestError(
                f"{' and '.join(map(str, holders.values()))} have different assets {stem!r}",
                expected="one dataset with such an asset",
                repair="read it from one of them: `datasets` has them in order",
            )
        return next(iter(holders.values()), self.datasets[0]).asset(stem)


def _refuse_other_frames(one: LatentDataset, other: LatentDataset) -> None:
    """Check that two datasets are of the same clips and frames.

    Raises:
        IdentityError: They are not.
    """
    difference = _frame_difference(one, other)
    if difference is not None:
        raise IdentityError(
            f"datasets of different frames cannot be joined: {difference}\n"
            f"    {_frames_text(one)}\n    {_frames_text(other)}",
            expected="the same clips, frames and frame_step in both",
            repair="extract the same clips with both teachers, or choose them with `teachonce subset`",
        )


def _frame_difference(one: LatentDataset, other: LatentDataset) -> str | None:
    if one.manifest.frame_step != other.manifest.frame_step:
        return "they hold every n-th frame for different n"
    if different := sorted(set(one.clips) ^ set(other.clips)):
        return f"{len(different)} clips are in one of them only, such as {different[0]!r}"
    numbers = [dataset.manifest.feature(FRAME_INDEX) for dataset in (one, other)]
    for clip in one.clips:
        a, b = one.entry(clip), other.entry(clip)
        if a.clip.frames != b.clip.frames:
            return f"clip {clip!r} has {a.clip.frames} and {b.clip.frames} frames"
        if a.clip.split != b.clip.split:
            return f"clip {clip!r} is in the splits {a.clip.split} and {b.clip.split}"
        # Of equal specs, values are equal where the digests of the files are.
        equal = numbers[0] is not None and numbers[0] == numbers[1]
        if equal and _value_files(a, [FRAME_INDEX]) != _value_files(b, [FRAME_INDEX]):
            return f"clip {clip!r} has different values of {FRAME_INDEX}"
    return None


def _value_files(entry: LedgerEntry, features: Sequence[str]) -> dict[str, FileRecord]:
    """Return the files of a clip that hold some features' values: all of their arrays but the zarr.json."""
    return {
        name: file
        for name, file in entry.files.items()
        if feature_of(name) in features and not name.endswith("/zarr.json")
    }


def _frames_text(dataset: LatentDataset) -> str:
    frames = sum(dataset.clip(clip).frames for clip in dataset.clips)
    digest = sha256_bytes("\n".join(dataset.clips).encode())
    return (
        f"{dataset}: {len(dataset.clips)} clips, {frames:,} frames, "
        f"frame_step {dataset.manifest.frame_step}, clip list {digest[:12]}"
    )


def _refuse_other_feature(name: str, first: LatentDataset, other: LatentDataset) -> None:
    """Check that a feature which two datasets hold is the same ground truth or stored input in both.

    Raises:
        RequestError: It is not.
    """
    specs = [dataset.feature(name) for dataset in (first, other)]
    stored = all(dataset.manifest.feature(name) is not None for dataset in (first, other))
    shared = ("truth", "input") if stored else ("truth",)
    if first is not other and (specs[0] != specs[1] or specs[0].role not in shared):
        raise RequestError(
            f"{first} and {other} both hold a feature {name!r}",
            expected="features of different names, but for equal ground truth and stored inputs",
            repair=f"make a dataset without it of one of them: `teachonce pull {other} OUT --features ...`",
        )


def _refuse_other_values(features: Sequence[str], first: LatentDataset, other: LatentDataset) -> None:
    """Check that inputs which two datasets store in the same way have the same values in both.

    Raises:
        IdentityError: One has not; the message names the first frame that differs.
    """
    # Of equal specs, values are equal where the digests of the files are.
    different: dict[str, list[str]] = {}
    for clip in first.clips if features else ():
        here, there = (_value_files(dataset.entry(clip), features) for dataset in (first, other))
        if here != there:
            paths = {path for path in here.keys() | there.keys() if here.get(path) != there.get(path)}
            for feature in sorted({feature_of(path) for path in paths}):
                different.setdefault(feature, []).append(clip)
    if not different:
        return
    feature, clips = next(iter(different.items()))
    frames = _different_frames(first, other, clips[0], feature)
    count = first.clip(clips[0]).frames
    where = f"frame {frames[0]} and {len(frames) - 1} more of {count}" if frames else "how it is stored"
    raise IdentityError(
        f"datasets with different inputs cannot be joined: {feature!r} of clip {clips[0]!r} differs in "
        f"{where}; {len(clips)} of {len(first.clips)} clips differ\n    {first}\n    {other}",
        expected="the same values in both, such as token ids by one tokenizer, or digests of the same images",
        repair="extract both from the same data in the same way, or leave clips out with `teachonce subset`",
    )


def _different_frames(one: LatentDataset, other: LatentDataset, clip: str, feature: str) -> list[int]:
    return [
        frame
        for block in frame_blocks(one, clip, feature)
        for frame, a, b in zip(
            range(block.start, block.stop),
            one.read(clip, feature, block),
            other.read(clip, feature, block),
            strict=True,
        )
        if not np.array_equal(a, b)
    ]

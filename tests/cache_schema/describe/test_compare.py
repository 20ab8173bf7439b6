"""Two datasets against each other, with numbers worked out by hand."""

import math
from pathlib import Path

import numpy as np
import pytest

from cache_schema.dataset import blocks
from cache_schema.dataset.writer import DatasetWriter
from cache_schema.describe.compare import FeatureComparison, compare
from cache_schema.errors import RequestError
from cache_schema.format.features import FeatureSpec
from cache_schema.format.ledger import ClipInfo

SPEED = FeatureSpec(name="speed", shape=(2,), axes=("xy",), dtype="float32", role="target", unit="m/s")
LIGHT = FeatureSpec(name="light", shape=(), axes=(), dtype="bool", role="truth")
QUERIES = FeatureSpec(name="queries", shape=(5, 3), axes=("query", "channel"), dtype="float16", role="input")


@pytest.fixture
def dataset(tmp_path: Path, manifest, assets):
    """``dataset(name, clips, features)``: really written, from clip -> feature -> values."""

    def write(name: str, clips: dict[str, dict], features=(SPEED,)) -> Path:
        path = tmp_path / f"{name}.zarr"
        with DatasetWriter(path, manifest.replace(features=features), assets) as writer:
            for clip, values in clips.items():
                arrays = {spec.name: np.asarray(values[spec.name], spec.dtype) for spec in features}
                frames = len(next(iter(arrays.values())))
                stored = writer.clip(ClipInfo(name=clip, frames=frames, split="train"))
                stored.append(arrays)
                stored.commit(wall_s=0)
        return path

    return write


def test_every_number_by_hand(dataset):
    a = dataset("a", {"one": {"speed": [[3, 4], [0, 2]]}, "two": {"speed": [[1, 0]]}})
    b = dataset("b", {"one": {"speed": [[3, 4], [2, 0]]}, "two": {"speed": [[1, 1]]}})
    found = compare(a, b)
    assert (found.clips, found.frames) == (("one", "two"), 3)
    (speed,) = found.features
    # Differences (0, 0), (2, -2), (0, 1) of values (3, 4), (0, 2), (1, 0).
    assert speed.relative_error == pytest.approx(math.sqrt(9 / 30))
    assert speed.cosine == pytest.approx((1 + 0 + math.sqrt(0.5)) / 3)
    assert speed.largest_difference == 2


def test_a_dataset_equals_itself_and_nothing_is_not_something(dataset):
    some, none = {"one": {"speed": [[3, 4], [0, 0]]}}, {"one": {"speed": [[0, 0], [0, 0]]}}
    a, b = dataset("a", some), dataset("b", none)
    assert compare(a, a).features == (FeatureComparison("speed", 0, 1, 0),)
    assert compare(b, b).features == (FeatureComparison("speed", 0, 1, 0),)
    assert compare(a, b).features == (FeatureComparison("speed", 1, 0.5, 4),)
    assert compare(b, a).features == (FeatureComparison("speed", math.inf, 0.5, 4),)


def test_only_what_both_hold_is_compared(dataset):
    one, two = {"speed": [[1, 0]], "light": [True]}, {"speed": [[9, 9]], "light": [True]}
    a = dataset("a", {"one": one, "two": two}, (SPEED, LIGHT))
    b = dataset("b", {"one": {"light": [False]}, "three": {"light": [True]}}, (LIGHT,))
    found = compare(a, b)
    assert (found.clips, found.frames) == (("one",), 1)
    assert found.features == (FeatureComparison("light", 1, 0, 1),)


def test_blocks_of_frames_change_nothing(dataset, monkeypatch):
    rng = np.random.default_rng(0)
    values = [rng.normal(size=(7, 5, 3)).astype(np.float16) for _ in range(2)]
    a, b = (dataset(name, {"one": {"queries": x}}, (QUERIES,)) for name, x in zip("ab", values, strict=True))
    x, y = (v.astype(np.float64).reshape(7, -1) for v in values)
    cosine = ((x * y).sum(1) / np.sqrt((x**2).sum(1) * (y**2).sum(1))).mean()
    expected = (np.sqrt(((x - y) ** 2).sum() / (x**2).sum()), cosine, np.abs(x - y).max())
    for block_bytes in (1, 2 * 15 * 8, blocks.BLOCK_BYTES):  # one frame, two frames, all
        monkeypatch.setattr(blocks, "BLOCK_BYTES", block_bytes)
        (found,) = compare(a, b).features
        assert (found.relative_error, found.cosine, found.largest_difference) == pytest.approx(expected)


def test_what_cannot_be_compared(dataset):
    a = dataset("a", {"one": {"speed": [[1, 2]]}})
    with pytest.raises(RequestError, match="no clip in common"):
        compare(a, dataset("b", {"two": {"speed": [[1, 2]]}}))
    with pytest.raises(RequestError, match=r"clip 'one' has 1 frames in .*a\.zarr and 2 in .*c\.zarr"):
        compare(a, dataset("c", {"one": {"speed": [[1, 2], [1, 2]]}}))
    with pytest.raises(RequestError, match="no feature in common"):
        compare(a, dataset("d", {"one": {"light": [True]}}, (LIGHT,)))
    wide = SPEED.model_copy(update={"shape": (3,)})
    with pytest.raises(RequestError, match=r"shape \(2,\) in .*a\.zarr and \(3,\) in .*e\.zarr"):
        compare(a, dataset("e", {"one": {"speed": [[1, 2, 3]]}}, (wide,)))


POINTS = FeatureSpec(name="points", shape=(None, 2), axes=("point", "xy"), dtype="float32", role="target")


@pytest.fixture
def ragged(tmp_path: Path, manifest):
    """``ragged(name, frames)``: a dataset of one clip whose points are these."""

    def write(name: str, frames: list[list]) -> Path:
        path = tmp_path / f"{name}.zarr"
        with DatasetWriter(path, manifest.replace(features=(POINTS,), assets=())) as writer:
            clip = writer.clip(ClipInfo(name="one", frames=len(frames), split="train"))
            clip.append({"points": [np.reshape(frame, (-1, 2)) for frame in frames]})
            clip.commit(wall_s=0)
        return path

    return write


def test_ragged_features_by_hand(ragged, monkeypatch):
    a = ragged("a", [[[3, 4]], [], [[0, 2], [1, 0]]])
    b = ragged("b", [[[3, 4]], [], [[2, 0], [1, 1]]])
    for block_bytes in (1, blocks.BLOCK_BYTES):
        monkeypatch.setattr(blocks, "BLOCK_BYTES", block_bytes)
        (points,) = compare(a, b).features
        assert points.relative_error == pytest.approx(math.sqrt(9 / 30))
        # Of whole frames: (3, 4) with itself, nothing with nothing, (0, 2, 1, 0) with (2, 0, 1, 1).
        assert points.cosine == pytest.approx((1 + 1 + 1 / math.sqrt(5 * 6)) / 3)
        assert points.largest_difference == 2


def test_ragged_shapes_must_agree_frame_by_frame(ragged):
    a, b = ragged("a", [[[3, 4]], [[1, 1]]]), ragged("b", [[[3, 4]], [[1, 1], [1, 1]]])
    with pytest.raises(RequestError, match=r"clip 'one', frame 1: 'points' has shape \(1, 2\) in .*a\.zarr"):
        compare(a, b)


def test_a_dataset_of_format_2_equals_itself(format_2):
    found = compare(format_2, format_2)
    assert found.frames == 10
    for row in found.features:
        assert (row.relative_error, row.largest_difference) == (0, 0)
        assert row.cosine == pytest.approx(1)

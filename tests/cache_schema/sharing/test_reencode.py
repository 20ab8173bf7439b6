"""Other encodings of the same values, and what that costs, with numbers worked out by hand."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from cache_schema.dataset.reader import LatentDataset
from cache_schema.dataset.writer import DatasetWriter
from cache_schema.errors import FeatureError, IdentityError, RequestError
from cache_schema.format.features import FeatureSpec
from cache_schema.format.ledger import ClipInfo
from cache_schema.format.manifest import AssetSpec
from cache_schema.integrity.verify import verify
from cache_schema.sharing.merge import merge
from cache_schema.sharing.reencode import parse_encodings, reencode
from cache_schema.storage.atomic_io import sha256_bytes
from tests.cache_schema.conftest import CLIPS, values_of
from tests.cache_schema.format_2 import assert_equal
from tests.cache_schema.sharing.test_merge import digests
from tests.tokens import vision_tokens

SEGMENTS = (("scene", 5), ("history", 2), ("map", 4))


def test_only_what_is_asked_for_changes(dataset, tmp_path):
    out = tmp_path / "out.zarr"
    report = reencode(dataset, out, {"queries": "int8-per-channel"})
    before, after = LatentDataset.open(dataset), LatentDataset.open(out)
    assert (report.clips, report.frames) == (2, 12)
    for info in CLIPS:
        values = values_of(info.name, info.frames)
        for name in ("token", "command", "mask"):
            np.testing.assert_array_equal(after.read(info.name, name), values[name])
            old, new = (
                d.entry(info.name).files[f"{name}/c.0" + ".0" * (name != "command")] for d in (before, after)
            )
            assert old == new
        # Half a step of 1/127 of the largest value of a frame's channel, and the rounding to float16.
        largest = abs(values["queries"]).max(axis=1, keepdims=True).astype(np.float64)
        error = abs(after.read(info.name, "queries") - values["queries"].astype(np.float64))
        assert (error <= largest / 254 + largest * 2**-11).all()
        assert error.max() > 0
    assert verify(out).problems == ()
    identity = after.manifest.identity()
    assert identity["features"]["queries"].pop("encoding") == "int8-per-channel"
    expected = before.manifest.identity()
    expected["features"]["queries"].pop("encoding")
    assert identity == expected


def test_bytes_before_and_after(dataset, tmp_path):
    (queries,) = reencode(dataset, tmp_path / "out.zarr", {"queries": "int8-per-channel"}).features
    values = 12 * 17 * 256
    assert 2 * values < queries.nbytes_before < 2 * values + 2 * 3000
    assert values + 12 * 256 * 4 < queries.nbytes_after < values + 12 * 256 * 4 + 2 * 6000


def test_there_and_back_again(dataset, tmp_path):
    """float32 to bfloat16 loses what it must, and then nothing more."""
    (token,) = reencode(dataset, tmp_path / "b.zarr", {"token": "bfloat16"}).features
    assert 0 < token.relative_error < 2**-8
    back = reencode(tmp_path / "b.zarr", tmp_path / "c.zarr", {"token": "full"})
    assert back.features[0].relative_error == 0
    for info in CLIPS:
        bits = values_of(info.name, info.frames)["token"].view(np.uint32)
        # Round half to even in the upper 16 bits.
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32)
        np.testing.assert_array_equal(
            LatentDataset.open(tmp_path / "c.zarr").read(info.name, "token"), rounded
        )
    again = reencode(tmp_path / "c.zarr", tmp_path / "d.zarr", {"token": "bfloat16"})
    assert again.features[0].relative_error == 0
    assert digests(tmp_path / "d.zarr") == digests(tmp_path / "b.zarr")


def test_float16_as_bfloat16_is_read_as_float32(dataset, tmp_path):
    reencode(dataset, tmp_path / "out.zarr", {"queries": "bfloat16"})
    out = LatentDataset.open(tmp_path / "out.zarr")
    assert out.feature("queries").dtype == "float32"
    assert out.read(CLIPS[0].name, "queries").dtype == np.float32


@pytest.mark.parametrize(
    ("encodings", "message"),
    [
        ({"token": "int8-per-channel"}, "needs two axes"),
        ({"command": "bfloat16"}, "bfloat16"),
        ({"queries": "zip"}, "'zip'"),
        ({"colour": "full"}, "no feature colour"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(dataset, tmp_path, encodings, message):
    with pytest.raises(RequestError, match=message):
        reencode(dataset, tmp_path / "out.zarr", encodings)
    assert not (tmp_path / "out.zarr").exists()


def test_recoded_clips_do_not_mix_with_the_others(dataset, tmp_path):
    reencode(dataset, tmp_path / "out.zarr", {"queries": "int8-per-channel"})
    with pytest.raises(IdentityError, match=r"features\.queries\.encoding: 'full' and 'int8-per-channel'"):
        merge(tmp_path / "both.zarr", [dataset, tmp_path / "out.zarr"])
    with pytest.raises(IdentityError, match=r"features\.queries\.encoding"):
        reencode(dataset, tmp_path / "out.zarr", {"token": "bfloat16"})


@pytest.fixture
def write(tmp_path: Path, manifest):
    """``write(values, **spec)``: a dataset of one feature, one clip a list of frames."""

    def write(clips: dict[str, np.ndarray], assets: dict[str, bytes], *specs: FeatureSpec) -> Path:
        path = tmp_path / "source.zarr"
        named = tuple(
            AssetSpec(name=name, sha256=sha256_bytes(content), nbytes=len(content))
            for name, content in assets.items()
        )
        changes = {"features": specs, "assets": named}
        with DatasetWriter(path, manifest.replace(**changes), assets) as writer:
            for name, values in clips.items():
                clip = writer.clip(ClipInfo(name=name, frames=len(values[specs[0].name]), split="train"))
                clip.append(values)
                clip.commit(wall_s=0)
        return path

    return write


def test_a_lossy_feature_that_is_not_asked_for_stays_as_it_is(tmp_path, manifest):
    """Another program may have used fewer steps than ours would."""
    x = FeatureSpec(
        name="x",
        shape=(3, 4),
        axes=("row", "channel"),
        dtype="float16",
        role="input",
        encoding="int8-per-channel",
    )
    y = FeatureSpec(name="y", shape=(), axes=(), dtype="float32", role="input")
    stored = {
        "x": np.random.default_rng(0).integers(-90, 90, size=(2, 3, 4)).astype(np.int8),
        "x.scale": np.ones((2, 4), np.float32),
    }
    changed = manifest.replace(features=(x, y), assets=())
    with DatasetWriter(tmp_path / "source.zarr", changed) as writer:
        clip = writer.clip(ClipInfo(name="a", frames=2, split="train"))
        clip.append_stored("x", stored)
        clip.append({"y": np.ones(2)})
        clip.commit(wall_s=0)
    reencode(tmp_path / "source.zarr", tmp_path / "out.zarr", {"y": "bfloat16"})
    for name, values in LatentDataset.open(tmp_path / "out.zarr").stored("a", "x").items():
        np.testing.assert_array_equal(values, stored[name])


def test_every_number_by_hand(write, tmp_path):
    x = FeatureSpec(name="x", shape=(2, 2), axes=("row", "channel"), dtype="float32", role="input")
    # Channel 0: 127, 10.4 -> steps of 1: 127, 10. Channel 1 is constant, which int8 keeps.
    # The second frame, of another clip: channel 0 is 254, -3 -> steps of 2: 254, -4 (-1.5 to even).
    frames = np.array([[[127, 5], [10.4, 5]], [[254, 5], [-3, 5]]], np.float32)
    source = write({"a": {"x": frames[:1]}, "b": {"x": frames[1:]}}, {}, x)
    (loss,) = reencode(source, tmp_path / "out.zarr", {"x": "int8-per-channel"}).features
    np.testing.assert_allclose(
        LatentDataset.open(tmp_path / "out.zarr").read("b", "x"), [[[254, 5], [-4, 5]]], rtol=1e-6
    )
    kept = np.array([127, 10.4, 254, -3])
    wrong = 0.4**2 + 1
    assert loss.relative_error == pytest.approx(np.sqrt(wrong / ((kept**2).sum() + 4 * 25)), rel=1e-5)
    of_channel = np.sqrt(wrong / 4) / kept.std()
    assert loss.channel_error_max == pytest.approx(of_channel, rel=1e-5)
    assert loss.channel_error_median == pytest.approx(of_channel / 2, rel=1e-5)
    assert loss.derived_cosine == {}
    cosines = [
        np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)
        for a, b in (([10.4, 5], [10, 5]), ([-3, 5], [-4, 5]))
    ]
    assert loss.cosine == pytest.approx((2 + sum(cosines)) / 4, rel=1e-5)


def test_a_massive_channel_shows_in_the_channel_error(write, tmp_path):
    """One channel a thousand times the others': the whole error hardly sees them, the channel error does."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(8, 64, 16))
    values[..., 3] *= 1000
    x = FeatureSpec(name="x", shape=(64, 16), axes=("row", "channel"), dtype="float32", role="input")
    (loss,) = reencode(
        write({"a": {"x": values}}, {}, x), tmp_path / "out.zarr", {"x": "int8-per-channel"}
    ).features
    # A step is about 2.5 deviations / 127; its rounding error a step / sqrt(12). One scale for all channels
    # would put the median near 2.5 * 1000 / 127 / sqrt(12) = 5.7.
    assert loss.channel_error_median == pytest.approx(2.5 / 127 / np.sqrt(12), rel=0.15)
    assert loss.channel_error_max < 1.3 * loss.channel_error_median


def test_the_cosine_of_tokens_is_that_of_projected_tokens(write, tmp_path):
    rng = np.random.default_rng(1)
    heads = {
        "scene.weight": rng.normal(size=(32, 6)).astype(np.float32),
        "scene.bias": rng.normal(size=32).astype(np.float32),
        "map.weight": rng.normal(size=(32, 6)).astype(np.float32),
        "map.bias": rng.normal(size=32).astype(np.float32),
    }
    queries = FeatureSpec(
        name="scene_queries",
        shape=(11, 6),
        axes=("query", "channel"),
        dtype="float16",
        role="input",
        segments=SEGMENTS,
    )
    ego = FeatureSpec(name="ego_token", shape=(32,), axes=("channel",), dtype="float16", role="input")
    values = {"scene_queries": rng.normal(size=(5, 11, 6)), "ego_token": rng.normal(size=(5, 32))}
    source = write({"a": values}, {"teacher_heads.safetensors": save(heads)}, queries, ego)
    (loss,) = reencode(source, tmp_path / "out.zarr", {"scene_queries": "int8-per-channel"}).features
    a, b = (
        np.delete(
            vision_tokens(dataset.read("a", "scene_queries"), values["ego_token"], heads, queries), 7, axis=1
        ).astype(np.float64)
        for dataset in (LatentDataset.open(source), LatentDataset.open(tmp_path / "out.zarr"))
    )
    cosines = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    assert 1 - loss.derived_cosine["vision_tokens"] == pytest.approx(1 - cosines.mean(), rel=1e-3)
    assert loss.derived_cosine["vision_tokens"] < 1


def test_run_again_measures_everything(dataset, tmp_path):
    out = tmp_path / "out.zarr"
    whole = reencode(dataset, tmp_path / "whole.zarr", {"queries": "int8-per-channel"})
    reencode(dataset, out, {"queries": "int8-per-channel"})
    name = CLIPS[1].name
    (out / "ledger" / f"{name}.json").unlink()
    assert reencode(dataset, out, {"queries": "int8-per-channel"}) == whole
    assert digests(out) == digests(tmp_path / "whole.zarr")


def test_encodings_of_a_command_line():
    assert parse_encodings(["a=full", "b=bfloat16"]) == {"a": "full", "b": "bfloat16"}


@pytest.mark.parametrize("texts", [[], ["a"], ["a="], ["=full"], ["a=full", "a=bfloat16"]])
def test_encodings_that_are_not_clear(texts):
    with pytest.raises(RequestError, match="it is not clear what to reencode"):
        parse_encodings(texts)


def test_ragged_values_as_bfloat16_and_back(format_2, tmp_path):
    maps = reencode(format_2, tmp_path / "full.zarr", {"maps": "full"}).features[0]
    assert maps.relative_error == 0
    assert maps.cosine == pytest.approx(1)
    # Two layers of n (n + 1) / 2 and of n x n, of n = 3, 1, 4, 1, 5 and of n = 2, 0, 6.
    stored = [
        [LatentDataset.open(path).entry(clip).values["maps"] for clip in ("scene-1", "scene-2", "scene-3")]
        for path in (format_2, tmp_path / "full.zarr")
    ]
    assert stored == [[2 * 33, 2 * 24, 0], [2 * 52, 2 * 40, 0]]
    half = reencode(tmp_path / "full.zarr", tmp_path / "half.zarr", {"maps": "bfloat16", "points": "full"})
    assert 0 < half.features[0].relative_error < 2**-8
    assert half.features[1].relative_error == 0  # whole numbers, which bfloat16 held
    before, after = LatentDataset.open(format_2), LatentDataset.open(tmp_path / "half.zarr")
    for clip in before.clips:
        for name in ("tokens", "image", "attention", "points", "square", "rows"):
            assert_equal(after.read(clip, name), before.read(clip, name))
    assert verify(tmp_path / "half.zarr").problems == ()
    # What is a triangle still is one.
    again = reencode(tmp_path / "full.zarr", tmp_path / "again.zarr", {"maps": "lower-triangle"})
    assert again.features[0].relative_error == 0
    assert digests(tmp_path / "again.zarr") == digests(format_2)


def test_a_square_as_a_triangle_makes_format_1_format_2(write, tmp_path):
    x = FeatureSpec(name="x", shape=(2, 2), axes=("row", "column"), dtype="float32", role="input")
    frames = np.array([[[1, 0], [2, 3]], [[4, 0], [5, 6]]], np.float32)
    source = write({"a": {"x": frames}}, {}, x)
    assert LatentDataset.open(source).manifest.format_version == 1
    (error,) = reencode(source, tmp_path / "out.zarr", {"x": "lower-triangle"}).features
    assert (error.relative_error, error.nbytes_before - error.nbytes_after > -40) == (0, True)
    out = LatentDataset.open(tmp_path / "out.zarr")
    assert out.manifest.format_version == 2
    assert out.stored("a", "x")["x"].tolist() == [[1, 2, 3], [4, 5, 6]]
    np.testing.assert_array_equal(out.read("a", "x"), frames)
    reencode(tmp_path / "out.zarr", tmp_path / "back.zarr", {"x": "full"})
    assert (tmp_path / "back.zarr" / "zarr.json").read_bytes() == (source / "zarr.json").read_bytes()
    assert digests(tmp_path / "back.zarr") == digests(source)


@pytest.mark.parametrize(
    ("encodings", "message"),
    [
        ({"tokens": "int8-per-channel"}, "int8-per-channel"),
        ({"attention": "int8-per-channel"}, "needs two axes of fixed length"),
        ({"tokens": "lower-triangle"}, "needs two last axes of equal length"),
        ({"image": "bfloat16"}, "bfloat16"),
    ],
)
def test_what_cannot_be_done_with_ragged_features(format_2, tmp_path, encodings, message):
    with pytest.raises(RequestError, match=message):
        reencode(format_2, tmp_path / "out.zarr", encodings)
    assert not (tmp_path / "out.zarr").exists()


def test_attention_that_is_no_triangle_is_refused_and_nothing_is_left(format_2, tmp_path):
    """Its axes may be equal in a frame and are not in another; and there are values above the diagonal."""
    out = tmp_path / "out.zarr"
    with pytest.raises(FeatureError, match=r"clip 'scene-1', feature 'attention', frame 0: got an array"):
        reencode(format_2, out, {"attention": "lower-triangle"})
    assert LatentDataset.open(out).clips == ()
    assert not (out / ".partial").exists()

"""Values that frames share: written once, read by all."""

import functools
import json
import pickle
from http.server import ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from cache_schema import JoinedDataset, LatentDataset
from cache_schema.dataset.add_features import extend_clip, extend_manifest
from cache_schema.dataset.writer import DatasetWriter
from cache_schema.describe.card import card
from cache_schema.describe.compare import compare
from cache_schema.describe.inspect import inspect
from cache_schema.describe.statistics import statistics
from cache_schema.errors import DatasetError, FeatureError, RequestError
from cache_schema.format.features import FeatureSpec
from cache_schema.format.ledger import ClipInfo
from cache_schema.integrity.repair import repair
from cache_schema.integrity.verify import verify
from cache_schema.sharing.merge import merge
from cache_schema.sharing.pull import pull
from cache_schema.sharing.push import push
from cache_schema.sharing.reencode import reencode
from cache_schema.sharing.subset import ClipFilter, subset
from tests.cache_schema.format_2 import assert_equal
from tests.cache_schema.servers import serving
from tests.cache_schema.shared_values import (
    FEATURES,
    HOLDERS,
    IMAGES,
    INDEX,
    MAPS,
    NUMBER,
    TABLE,
    manifest_of,
    put_index,
    stored_values,
    value_of,
    write_shared,
)
from tests.cache_schema.storage.test_backends import Quiet
from tests.cache_schema.tampering import edit_root


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    return write_shared(tmp_path_factory.mktemp("shared") / "shared.zarr")


@pytest.fixture
def own(tmp_path) -> Path:
    """A dataset of one's own, to damage."""
    return write_shared(tmp_path / "own.zarr")


def assert_reads_right(dataset) -> None:
    for clip, holders in HOLDERS.items():
        for spec in (TABLE, MAPS):
            assert_equal(
                dataset.read(clip, spec.name), [value_of(spec, clip, f) for f in range(len(holders))]
            )


def test_every_frame_reads_its_value_wherever_it_is_stored(written):
    dataset = LatentDataset.open(written)
    assert_reads_right(dataset)
    assert dataset.stored_at("a", "table").tolist() == [0, 0, 0, 3, 3, 0]
    assert dataset.stored_at("a", "tokens").tolist() == [0, 1, 2, 3, 4, 5]
    chosen = {
        "slice": (slice(1, 6, 2), [1, 3, 5]),
        "backwards": (slice(None, None, -2), [5, 3, 1]),
        "numbers": (np.array([5, -2, 1, 5]), [5, 4, 1, 5]),
        "mask": (np.array([False, True, False, False, True, False]), [1, 4]),
        "none": (slice(4, 2), []),
    }
    for spec in (TABLE, MAPS):
        for frames, expected in chosen.values():
            assert_equal(dataset.read("a", spec.name, frames), [value_of(spec, "a", f) for f in expected])
        for frame in (0, 5, -1):
            np.testing.assert_array_equal(dataset.read("a", spec.name, frame), value_of(spec, "a", frame % 6))
        with pytest.raises(RequestError, match="has no frame 6"):
            dataset.read("a", spec.name, 6)


def test_what_is_stored_is_stored_once(written):
    dataset = LatentDataset.open(written)
    values = stored_values("a")["table"]
    stored = dataset.stored("a", "table", slice(1, 4))
    np.testing.assert_array_equal(stored["table"], values[3].reshape(-1))
    assert stored["table.shape"].tolist() == [[0, 30, 40], [0, 30, 40], [1, 30, 40]]
    assert dataset.frame_index("a", "table").shapes[:, 0].tolist() == [2, 0, 0, 1, 0, 0]
    lazy = dataset.dask("table", ["a", "b"]).compute(scheduler="synchronous")
    everything = [value.reshape(-1) for clip in "ab" for value in stored_values(clip)["table"]]
    np.testing.assert_array_equal(lazy, np.concatenate(everything))


def test_joined_datasets_read_it_as_one(written, tmp_path):
    counts = write_shared(tmp_path / "counts.zarr", (NUMBER,))
    joined = JoinedDataset([LatentDataset.open(counts), LatentDataset.open(written)])
    assert_reads_right(pickle.loads(pickle.dumps(joined)))
    assert joined.stored_at("b", "maps").tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("features", [FEATURES, (TABLE, INDEX)])
def test_the_format_is_2_and_the_manifest_says_where(features, tmp_path):
    path = write_shared(tmp_path / "x.zarr", features)
    held = json.loads((path / "zarr.json").read_bytes())["attributes"]["teachonce"]
    assert held["format_version"] == 2
    assert [spec.get("stored_at", "absent") for spec in held["features"]] == [
        "absent" if spec.stored_at is None else "prefix_sample" for spec in features
    ]
    assert LatentDataset.open(path).manifest == manifest_of(features)


@pytest.mark.parametrize(
    "index",
    [
        None,
        INDEX.model_copy(update={"shape": (1,), "axes": ("x",)}),
        INDEX.model_copy(update={"shape": (None,), "axes": ("x",)}),
        INDEX.model_copy(update={"dtype": "float32"}),
        INDEX.model_copy(update={"dtype": "bool"}),
        INDEX.model_copy(update={"name": "another"}),
    ],
)
def test_an_index_that_is_none_is_refused(index):
    features = (TABLE,) if index is None else (TABLE, index)
    with pytest.raises(ValidationError, match="table is stored at prefix_sample, which is no stored feature"):
        manifest_of(features)


def test_only_ragged_values_can_be_shared():
    fixed = {"name": "x", "shape": (3,), "axes": ("a",), "dtype": "float32", "role": "target"}
    with pytest.raises(ValidationError, match="values of one shape cannot be shared"):
        FeatureSpec(**fixed, stored_at="prefix_sample")
    with pytest.raises(ValidationError, match="stored_at"):
        FeatureSpec(**fixed | {"shape": (None,)}, stored_at="../etc")


WRONG = {
    "later": ([0, 2, 2, 3, 3, 0], "frame 1 has its value at frame 2, which is no frame up to it"),
    "beyond": ([0, 0, 0, 3, 3, 6], "frame 5 has its value at frame 6, which is no frame up to it"),
    "huge": (
        [0, 0, 0, 3, 3, 2**31 - 1],
        "frame 5 has its value at frame 2147483647, which",
    ),
    "negative": ([0, 0, -1, 3, 3, 0], "frame 2 has its value at frame -1, which is no frame up to it"),
    "chain": ([0, 0, 1, 3, 3, 0], "frame 2 has its value at frame 1, which stores no value of its own"),
    "twice": ([0, 0, 0, 0, 0, 0], "frame 3 has its value at frame 0, and stores one itself"),
}


@pytest.mark.parametrize("name", [name for name in WRONG if name != "twice"])
def test_a_writer_refuses_an_index_that_leads_astray(name, tmp_path):
    holders, message = WRONG[name]
    with DatasetWriter(tmp_path / "x.zarr", manifest_of(), {}) as writer:
        clip = writer.clip(ClipInfo(name="a", frames=6, split="train"))
        values = stored_values("a") | {"prefix_sample": np.array(holders, np.int32)}
        for begin in range(0, 6, 2):  # in parts
            clip.append({key: part[begin : begin + 2] for key, part in values.items()})
        with pytest.raises(FeatureError, match=f"clip 'a', feature 'table': {message}") as refused:
            clip.commit(wall_s=0)
        assert "the first of the frames that share it" in refused.value.repair
        clip.abort()
    assert LatentDataset.open(tmp_path / "x.zarr").clips == ()


def test_a_writer_refuses_a_value_that_is_stored_twice(tmp_path):
    with DatasetWriter(tmp_path / "x.zarr", manifest_of(), {}) as writer:
        clip = writer.clip(ClipInfo(name="a", frames=6, split="train"))
        values = stored_values("a")
        values["maps"][1] = values["maps"][0]
        clip.append(values)
        with pytest.raises(FeatureError, match="'maps': frame 1 has its value at frame 0, and stores"):
            clip.commit(wall_s=0)


def test_the_caller_may_use_the_memory_of_an_index_again(tmp_path):
    with DatasetWriter(tmp_path / "x.zarr", manifest_of(), {}) as writer:
        clip = writer.clip(ClipInfo(name="a", frames=6, split="train"))
        values = stored_values("a")
        clip.append(values)
        values["prefix_sample"][:] = -1
        clip.commit(wall_s=0)


@pytest.mark.parametrize(("holders", "message"), WRONG.values(), ids=WRONG)
def test_a_dataset_that_leads_astray_is_refused_and_reported(holders, message, own):
    put_index(own, holders)
    dataset = LatentDataset.open(own)
    for frames in (None, 0, np.array([1])):
        with pytest.raises(DatasetError, match=f"clip 'a', feature 'table': {message}") as refused:
            dataset.read("a", "table", frames)
    assert "teachonce repair" in refused.value.repair
    assert_equal(dataset.read("b", "table", slice(2)), [value_of(TABLE, "b", f) for f in range(2)])
    problems = verify(own).problems
    assert [(one.clip, one.feature) for one in problems] == [("a", "table"), ("a", "maps")]
    assert all(one.what.startswith(f"prefix_sample/c.0 cannot be right: {message}") for one in problems)


def test_an_index_that_the_manifest_lies_about(own):
    edit_root(own, lambda manifest: manifest["features"][1].update(stored_at="gone"))
    with pytest.raises(DatasetError, match="table is stored at gone, which is no stored feature"):
        LatentDataset.open(own)


def test_it_is_verified_described_compared_and_measured(written, tmp_path):
    for quick in (True, False):
        assert verify(written, quick=quick).problems == ()
    row = next(row for row in inspect(written).features if row.name == "table")
    assert row.logical_bytes == sum(sum(counts.values()) for counts in IMAGES.values()) * 30 * 40 * 4
    values = np.concatenate([v.reshape(-1) for clip in HOLDERS for v in stored_values(clip)["table"]])
    assert statistics(LatentDataset.open(written), "table").mean == pytest.approx(values.mean())
    other = reencode(written, tmp_path / "other.zarr", {"table": "bfloat16", "maps": "full"})
    assert {error.feature for error in other.features} == {"table", "maps"}
    assert_reads_right(LatentDataset.open(other.path))  # bfloat16 holds whole numbers of eight bits
    assert verify(other.path).problems == ()
    found = {row.feature: row for row in compare(written, other.path).features}
    assert found["table"].relative_error == 0.0
    assert found["maps"].cosine == pytest.approx(1.0)


def test_parts_of_it_are_datasets(written, tmp_path):
    """With shared values comes where they are."""
    part = pull(str(written), tmp_path / "part.zarr", ClipFilter(clips="[ab]"), features=["table"]).path
    dataset = LatentDataset.open(part)
    assert [spec.name for spec in dataset.manifest.features] == ["prefix_sample", "table"]
    assert_equal(dataset.read("a", "table"), [value_of(TABLE, "a", f) for f in range(6)])
    assert verify(part).problems == ()
    # The same features by name are the same dataset.
    again = pull(str(written), part, features=["prefix_sample", "table"])
    assert (again.fetched, again.present) == (("c", "d"), ("a", "b"))
    plain = LatentDataset.open(pull(str(written), tmp_path / "plain.zarr", features=["tokens"]).path)
    assert [spec.name for spec in plain.manifest.features] == ["tokens"]
    chosen = subset(written, tmp_path / "chosen.zarr", ClipFilter(split="val")).path
    rest = subset(written, tmp_path / "rest.zarr", ClipFilter(split="train")).path
    whole = merge(tmp_path / "whole.zarr", [chosen, rest]).path
    assert_reads_right(LatentDataset.open(whole))
    assert verify(whole).problems == ()


def test_every_other_frame_of_it_is_refused(written, tmp_path):
    with pytest.raises(RequestError, match=r"one frame in 2 .* share values of table, maps") as refused:
        subset(written, tmp_path / "thin.zarr", every=2)
    assert "whole clips" in refused.value.repair
    assert not (tmp_path / "thin.zarr").exists()


@pytest.mark.parametrize("wrong", [False, True])
def test_it_is_added_to_clips_that_have_the_index(wrong, tmp_path):
    path = write_shared(tmp_path / "x.zarr", (INDEX, NUMBER))
    dataset = LatentDataset.open(path)
    with DatasetWriter(path):
        for clip in dataset.clips:
            values = {"maps": stored_values(clip)["maps"]}
            if wrong and clip == "b":
                values["maps"][3] = value_of(MAPS, "b", 3)
                with pytest.raises(
                    FeatureError, match="clip 'b', feature 'maps': frame 3 has its value at frame 1"
                ):
                    extend_clip(path, dataset.manifest, dataset.entry(clip), (MAPS,), values)
                return
            extend_clip(path, dataset.manifest, dataset.entry(clip), (MAPS,), values)
        extend_manifest(path, dataset.manifest, (MAPS,))
    opened = LatentDataset.open(path)
    assert_equal(opened.read("d", "maps"), [value_of(MAPS, "d", f) for f in range(5)])
    assert verify(path).problems == ()


def test_it_is_repaired_by_setting_the_clip_aside(own):
    put_index(own, WRONG["chain"][0])
    repair(own)
    assert LatentDataset.open(own).clips == ("b", "c", "d")
    assert verify(own).problems == ()


def test_it_is_shared_and_read_over_a_network(own, bucket, tmp_path):
    card(own, "apache-2.0")
    push(own, bucket.url)
    assert_reads_right(LatentDataset.open(bucket.url))
    whole = pull(bucket.url, tmp_path / "whole.zarr").path
    assert_reads_right(LatentDataset.open(whole))
    assert verify(whole).problems == ()
    part = pull(bucket.url, tmp_path / "part.zarr", features=["maps"]).path
    np.testing.assert_array_equal(LatentDataset.open(part).read("b", "maps", 3), value_of(MAPS, "b", 3))


def test_it_is_read_from_a_web_server(own, tmp_path):
    (own / "index.json").write_text(json.dumps({"clips": sorted(HOLDERS)}))
    handler = functools.partial(Quiet, directory=own.parent)
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as url:
        assert_reads_right(LatentDataset.open(f"{url}/own.zarr"))

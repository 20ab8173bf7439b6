import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cache_schema.errors import CheckpointError, RequestError
from cache_schema.features import FeatureSpec
from cache_schema.inspect import inspect
from cache_schema.plugins import resolve
from cache_schema.store import LatentDataset
from cache_schema.tokens import vision_tokens
from tests.cache_schema.conftest import CLIPS, HEADS, values_of


def test_all_clips_as_one_dask_array(dataset: Path):
    lazy = LatentDataset.open(dataset).dask("token")
    together = np.concatenate([values_of(clip.name, clip.frames)["token"] for clip in CLIPS])
    np.testing.assert_array_equal(lazy.compute(scheduler="synchronous"), together)


def test_a_feature_that_is_not_there(dataset: Path):
    with pytest.raises(RequestError, match="no feature attention, colour") as caught:
        LatentDataset.open(dataset).require(["token", "colour", "attention"])
    assert "queries, token, command, mask" in caught.value.expected


def test_assets(dataset: Path):
    opened = LatentDataset.open(dataset)
    np.testing.assert_array_equal(opened.asset("heads")["scene.weight"], HEADS["scene.weight"])
    with pytest.raises(RequestError, match="no asset 'planner'"):
        opened.asset("planner")


def test_inspect(dataset: Path):
    summary = inspect(dataset)
    assert (summary.clips, summary.frames) == (2, 12)
    assert summary.frames_by_split == {"train": 5, "val": 7}
    queries = summary.features[0]
    # 12 frames of 17 x 256 fp16, with a checksum and an index entry each: the rest is metadata.
    assert 0 < queries.stored_bytes - 12 * 17 * 256 * 2 < 12 * 20 + 2 * 2500


def test_projected_tokens_by_hand():
    spec = FeatureSpec(
        name="scene_queries",
        shape=(3, 2),
        axes=("query", "channel"),
        dtype="float16",
        role="input",
        segments=(("scene", 1), ("history", 1), ("map", 1)),
    )
    heads = {
        "scene.weight": np.array([[1, 0], [0, 1], [1, 1]], np.float32),
        "scene.bias": np.array([0, 0, 1], np.float32),
        "map.weight": np.array([[2, 0], [0, 2], [0, 0]], np.float32),
        "map.bias": np.array([5, 5, 5], np.float32),
    }
    queries = np.array([[[1, 2], [3, 4], [5, 6]]], np.float16)
    ego = np.array([[7, 8, 9]], np.float16)
    assert vision_tokens(queries, ego, heads, spec).tolist() == [
        [[1, 2, 4], [3, 4, 8], [7, 8, 9], [15, 17, 5]]
    ]


def test_unknown_plugin_names_the_nearest():
    table = {"orion-7b": "a:b", "orion-tiny": "c:d"}
    with pytest.raises(RequestError, match="did you mean 'orion-tiny'"):
        resolve(table, "orion-tyni", kind="teacher")
    with pytest.raises(RequestError, match="cannot be imported"):
        resolve(table, "no_such_package.x:Y", kind="teacher")
    assert resolve(table, "cache_schema.errors:CheckpointError", kind="teacher") is CheckpointError


def test_the_ground_floor_loads_no_torch():
    code = (
        "import sys, cache_schema.store, cache_schema.writer, cache_schema.verify, cache_schema.inspect, "
        "cache_schema.tokens, cache_schema.plugins\n"
        "loaded = {'torch', 'dask', 'transformers', 'pipeline', 'student'} & set(sys.modules)\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])

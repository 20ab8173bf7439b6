import json
import pickle
import subprocess
import sys
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from safetensors.numpy import save

from cache_schema.dataset.reader import LatentDataset
from cache_schema.dataset.writer import DatasetWriter
from cache_schema.describe.inspect import inspect
from cache_schema.errors import CheckpointError, DatasetError, RequestError
from cache_schema.format.features import FeatureSpec
from cache_schema.format.ledger import ClipInfo, Ledger, digest_of, record_files
from cache_schema.format.manifest import AssetSpec
from cache_schema.plugins import resolve
from cache_schema.storage.atomic_io import sha256_bytes
from cache_schema.storage.local_folder import LocalBackend
from tests.cache_schema.conftest import CLIPS, HEADS, values_of
from tests.cache_schema.tampering import edit_root
from tests.paths import ROOT


def test_all_clips_as_one_dask_array(dataset: Path):
    lazy = LatentDataset.open(dataset).dask("token")
    together = np.concatenate([values_of(clip.name, clip.frames)["token"] for clip in CLIPS])
    np.testing.assert_array_equal(lazy.compute(scheduler="synchronous"), together)


ENCODED = (
    FeatureSpec(
        name="steps",
        shape=(17, 256),
        axes=("query", "channel"),
        dtype="float16",
        role="input",
        encoding="int8-per-channel",
    ),
    FeatureSpec(
        name="halves", shape=(2, 3), axes=("a", "b"), dtype="float32", role="input", encoding="bfloat16"
    ),
)


@pytest.fixture
def encoded(tmp_path: Path, manifest) -> tuple[LatentDataset, dict[str, np.ndarray]]:
    """Two clips of values that their encodings hold exactly, and these values, one clip after the other."""
    rng = np.random.default_rng(0)
    steps = rng.integers(-127, 128, (9, 17, 256))
    steps[:, 0] = 127
    values = {
        "steps": (steps * 2.0 ** rng.integers(-9, 3, (9, 1, 256))).astype(np.float16),
        "halves": rng.integers(-255, 256, (9, 2, 3)).astype(np.float32),
    }
    path = tmp_path / "encoded.zarr"
    with DatasetWriter(path, manifest.replace(features=ENCODED, assets=())) as writer:
        for name, frames in (("a", slice(0, 4)), ("b", slice(4, 9))):
            clip = writer.clip(ClipInfo(name=name, frames=len(range(*frames.indices(9))), split="train"))
            clip.append({feature: array[frames] for feature, array in values.items()})
            clip.commit(wall_s=0)
    return LatentDataset.open(path), values


def test_readers_get_decoded_values(encoded):
    dataset, values = encoded
    for name, array in values.items():
        for frames in (None, slice(1, 4), np.array([4, 0, 0]), np.array([False, True, False, False, True])):
            read = dataset.read("b", name, frames)
            assert read.dtype == array.dtype
            np.testing.assert_array_equal(read, array[4:][slice(None) if frames is None else frames])
        for frame in (0, 4, -1, np.int64(2)):
            np.testing.assert_array_equal(dataset.read("b", name, frame), array[4:][frame])
        lazy = dataset.dask(name)
        assert (lazy.shape, lazy.dtype) == (array.shape, array.dtype)
        np.testing.assert_array_equal(lazy.compute(scheduler="synchronous"), array)
        np.testing.assert_array_equal(lazy[2:6, 1].compute(scheduler="synchronous"), array[2:6, 1])
        there = pickle.loads(pickle.dumps(lazy[7]))  # as workers of a cluster get it
        np.testing.assert_array_equal(there.compute(scheduler="synchronous"), array[7])


def test_what_is_stored_travels_undecoded(encoded):
    dataset, values = encoded
    stored = dataset.stored("a", "steps", np.array([3, 1]))
    assert {name: (array.dtype, array.shape) for name, array in stored.items()} == {
        "steps": (np.dtype("int8"), (2, 17, 256)),
        "steps.scale": (np.dtype("float32"), (2, 256)),
    }
    product = stored["steps"] * stored["steps.scale"][:, None].astype(np.float64)
    np.testing.assert_array_equal(product, values["steps"][[3, 1]])
    (halves,) = dataset.stored("a", "halves").values()
    assert halves.dtype == np.uint16
    with pytest.raises(RequestError, match=r"no array 'halves\.scale'"):
        dataset.array("a", "halves.scale")


def test_a_frame_that_is_not_there(dataset: Path):
    opened = LatentDataset.open(dataset)
    for frames, named in ((5, 5), (-6, -6), (np.array([0, 9, 1]), 9)):
        with pytest.raises(RequestError, match=f"has no frame {named}\n.*from 0 to 4"):
            opened.read(CLIPS[0].name, "token", frames)


def test_a_dataset_travels_to_other_processes_as_its_address(dataset: Path):
    opened = LatentDataset.open(dataset)
    opened.read(CLIPS[0].name, "token")
    there = pickle.loads(pickle.dumps(opened))
    np.testing.assert_array_equal(there.read(CLIPS[0].name, "token"), values_of(CLIPS[0].name, 5)["token"])


class CountingBackend(LocalBackend):
    """A folder that writes down what is read of it."""

    def __init__(self, path: Path):
        super().__init__(path)
        self.taken = []

    def read(self, name, limit_bytes):
        content = super().read(name, limit_bytes)
        self.taken.append((name, len(content)))
        return content

    def read_ranges(self, name, nbytes, ranges):
        self.taken += [(name, length) for _, length in ranges]
        return super().read_ranges(name, nbytes, ranges)


def test_only_what_is_asked_for_is_read(dataset: Path):
    opened = LatentDataset.open(CountingBackend(dataset))
    opened.backend.taken.clear()
    clip = CLIPS[1].name
    opened.read(clip, "queries", 3)
    folder = f"clips/{clip}/queries"
    taken = [(name, size) for name, size in opened.backend.taken if not name.endswith(".json")]
    # The shard's index of 7 chunks, and one chunk of 17 x 256 halves; each with its checksum.
    assert taken == [(f"{folder}/c.0.0.0", 7 * 16 + 4), (f"{folder}/c.0.0.0", 17 * 256 * 2 + 4)]
    assert [name for name, _ in opened.backend.taken if name.endswith(".json")] == [f"ledger/{clip}.json"]
    # The places of chunks are remembered.
    opened.backend.taken.clear()
    opened.read(clip, "queries", np.array([0, 6]))
    assert opened.backend.taken == 2 * [(f"{folder}/c.0.0.0", 17 * 256 * 2 + 4)]


def rewrite(dataset: Path, clip: str, name: str, change) -> None:
    """Change a zarr.json, and make the ledger agree."""
    path = dataset / "clips" / clip / name
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))
    entry = Ledger(dataset).read(clip)
    files = record_files(dataset / "clips" / clip)
    (dataset / "ledger" / f"{clip}.json").unlink()
    update = {"files": files, "digest": digest_of(entry.clip, files)}
    Ledger(dataset).commit(entry.model_copy(update=update))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda document: document["codecs"].insert(1, {"name": "zstd", "configuration": {"level": 0}}),
            "codecs",
        ),
        (lambda document: document.update(shape=[2**40, 8]), "shape"),
        (lambda document: document["chunk_grid"]["configuration"].update(chunk_shape=[1, 8]), "chunk_grid"),
        (lambda document: document.update(fill_value=0), "fill_value"),
        (lambda document: document.update(data_type="float64"), "data_type"),
    ],
)
def test_an_array_that_is_not_as_promised_is_not_opened_with_zarr(dataset: Path, change, message: str):
    clip = CLIPS[0].name
    rewrite(dataset, clip, "token/zarr.json", change)
    opened = LatentDataset.open(dataset)
    for open_array in (opened.array, opened.check_array):
        with pytest.raises(DatasetError, match=f"no readable array 'token': its zarr.json has {message} "):
            open_array(clip, "token")
    # What is read here follows from the manifest alone.
    np.testing.assert_array_equal(opened.read(clip, "token"), values_of(clip, CLIPS[0].frames)["token"])


def test_a_ledger_that_lies_of_lengths_makes_no_reader_ask_for_memory(dataset: Path):
    ledger = Ledger(dataset)
    entry = ledger.read(CLIPS[0].name)
    info = entry.clip.model_copy(update={"frames": 90_000})
    (dataset / "ledger" / f"{info.name}.json").unlink()
    ledger.commit(entry.model_copy(update={"clip": info, "digest": digest_of(info, entry.files)}))
    opened = LatentDataset.open(dataset)
    for name in ("token", "queries"):
        with pytest.raises(DatasetError, match=f"the ledger lists 1 files of values of the array '{name}'"):
            opened.read(info.name, name, 0)


@pytest.mark.parametrize("feature", ["token", "queries", "command", "mask"])
def test_a_file_that_goes_while_it_is_read_is_an_error(dataset: Path, feature: str):
    """Never a fill value: by read, in a dask array, through Zarr."""
    opened, clip = LatentDataset.open(dataset), CLIPS[0].name
    lazy, array = opened.dask(feature, [clip]), opened.array(clip, feature)
    before = opened.read(clip, feature)
    np.testing.assert_array_equal(array[:], before)
    (file,) = (dataset / "clips" / clip / feature).glob("c.*")
    content = file.read_bytes()
    file.unlink()
    with pytest.raises(FileNotFoundError):
        array[:]
    for changed in (None, content[:-1], content + b"x", bytes(len(content))):
        if changed is not None:
            file.write_bytes(changed)
        with pytest.raises(DatasetError, match=f"feature '{feature}'"):
            opened.read(clip, feature)
        with pytest.raises(DatasetError, match=f"feature '{feature}'"):
            opened.read(clip, feature, 1)
        with pytest.raises(DatasetError, match=f"feature '{feature}'"):
            lazy.compute(scheduler="synchronous")
    file.write_bytes(content)
    np.testing.assert_array_equal(opened.read(clip, feature), before)


def test_another_dataset_in_the_same_place_is_not_read_for_the_first(dataset: Path):
    opened, clip = LatentDataset.open(dataset), CLIPS[0].name
    before = opened.read(clip, "token")
    root = (dataset / "zarr.json").read_bytes()
    (dataset / "zarr.json").unlink()
    (dataset / "zarr.json").write_bytes(root)  # the same, written again
    np.testing.assert_array_equal(opened.read(clip, "token"), before)
    edit_root(dataset, lambda manifest: manifest["teacher"].update(weights="random:1"))
    for name in (clip, CLIPS[1].name):
        with pytest.raises(DatasetError, match="another dataset was written to"):
            opened.read(name, "token")
    LatentDataset.open(dataset).read(clip, "token")
    (dataset / "zarr.json").unlink()
    with pytest.raises(DatasetError, match="there is no latent dataset"):
        opened.read(clip, "token")


def test_chunks_in_any_order_are_the_same_values(dataset: Path):
    """As another writer of sharded arrays may have them: the index tells where each is."""
    clip = CLIPS[1].name
    before = LatentDataset.open(dataset).read(clip, "queries")
    (file,) = (dataset / "clips" / clip / "queries").glob("c.*")
    stride, chunks = 17 * 256 * 2 + 4, CLIPS[1].frames
    content = file.read_bytes()
    rows = [content[row * stride : (row + 1) * stride] for row in range(chunks)]
    index = np.frombuffer(content[chunks * stride : -4], "<u8").reshape(chunks, 2).copy()
    order = np.random.default_rng(0).permutation(chunks)
    index[order, 0] = np.arange(chunks) * stride
    table = index.tobytes()
    checksum = google_crc32c.value(table).to_bytes(4, "little")
    file.write_bytes(b"".join(rows[row] for row in order) + table + checksum)
    opened = LatentDataset.open(dataset)
    np.testing.assert_array_equal(opened.read(clip, "queries"), before)
    chosen = np.array([5, 0, 5, -1])
    np.testing.assert_array_equal(opened.read(clip, "queries", chosen), before[chosen])
    np.testing.assert_array_equal(opened.read(clip, "queries", slice(None, None, -2)), before[::-2])


def test_a_shard_behind_a_symbolic_link_is_not_read(dataset: Path):
    shard = dataset / "clips" / CLIPS[0].name / "queries" / "c.0.0.0"
    shard.symlink_to(shard.rename(dataset.parent / "elsewhere"))
    with pytest.raises(DatasetError, match="is a symbolic link"):
        LatentDataset.open(dataset).read(CLIPS[0].name, "queries", 0)


def test_a_feature_that_is_not_there(dataset: Path):
    with pytest.raises(RequestError, match="no feature attention, colour") as caught:
        LatentDataset.open(dataset).require(["token", "colour", "attention"])
    assert "queries, token, command, mask" in caught.value.expected


def test_assets(dataset: Path):
    opened = LatentDataset.open(dataset)
    np.testing.assert_array_equal(opened.asset("heads")["scene.weight"], HEADS["scene.weight"])
    with pytest.raises(RequestError, match="no asset 'planner'"):
        opened.asset("planner")


def test_an_asset_is_never_unpickled(tmp_path: Path, manifest):
    content = pickle.dumps({"scene.weight": np.zeros(3)})
    asset = AssetSpec(name="heads.safetensors", sha256=sha256_bytes(content), nbytes=len(content))
    with DatasetWriter(tmp_path / "x.zarr", manifest.replace(assets=(asset,)), {asset.name: content}):
        pass
    with pytest.raises(DatasetError, match="is not the file that the manifest names"):
        LatentDataset.open(tmp_path / "x.zarr").asset("heads")


def test_inspect(dataset: Path):
    summary = inspect(dataset)
    assert (summary.clips, summary.frames) == (2, 12)
    assert summary.frames_by_split == {"train": 5, "val": 7}
    queries = summary.features[0]
    # 12 frames of 17 x 256 fp16, with a checksum and an index entry each: the rest is metadata.
    assert 0 < queries.stored_bytes - 12 * 17 * 256 * 2 < 12 * 20 + 2 * 2500


QUERIES = FeatureSpec(
    name="scene_queries",
    shape=(3, 2),
    axes=("query", "channel"),
    dtype="float16",
    role="input",
    segments=(("scene", 1), ("history", 1), ("map", 1)),
)
EGO = FeatureSpec(name="ego_token", shape=(3,), axes=("channel",), dtype="float16", role="input")
PROJECTIONS = {
    "scene.weight": np.array([[1, 0], [0, 1], [1, 1]], np.float32),
    "scene.bias": np.array([0, 0, 1], np.float32),
    "map.weight": np.array([[2, 0], [0, 2], [0, 0]], np.float32),
    "map.bias": np.array([5, 5, 5], np.float32),
}


@pytest.fixture
def projected(tmp_path: Path, manifest):
    """``projected(features, heads)``: a dataset of one clip with the queries and the ego token below."""

    def write(features=(QUERIES, EGO), heads=PROJECTIONS) -> LatentDataset:
        content = save(heads)
        asset = AssetSpec(name="teacher_heads.safetensors", sha256=sha256_bytes(content), nbytes=len(content))
        promised = manifest.replace(features=features, assets=(asset,))
        path = tmp_path / "projected.zarr"
        with DatasetWriter(path, promised, {asset.name: content}) as writer:
            clip = writer.clip(ClipInfo(name="a", frames=2, split="train"))
            values = {
                "scene_queries": np.array([[[1, 2], [3, 4], [5, 6]], [[0, 0], [0, 0], [0, 0]]]),
                "ego_token": np.array([[7, 8, 9], [1, 1, 1]]),
                "vision_tokens": np.zeros((2, 4, 3)),
            }
            clip.append({spec.name: values[spec.name] for spec in features})
            clip.commit(wall_s=0)
        return LatentDataset.open(path)

    return write


def test_vision_tokens_are_derived_by_hand(projected):
    dataset = projected()
    first = [[1, 2, 4], [3, 4, 8], [7, 8, 9], [15, 17, 5]]
    second = [[0, 0, 1], [0, 0, 1], [1, 1, 1], [5, 5, 5]]
    assert dataset.read("a", "vision_tokens").tolist() == [first, second]
    assert dataset.read("a", "vision_tokens", 0).tolist() == first
    assert dataset.read("a", "vision_tokens", np.array([1, 0])).tolist() == [second, first]
    assert dataset.dask("vision_tokens").compute(scheduler="synchronous").tolist() == [first, second]
    spec = dataset.feature("vision_tokens")
    assert (spec.shape, spec.dtype) == ((4, 3), "float32")
    assert spec.segments == (("scene", 1), ("history", 1), ("ego", 1), ("map", 1))
    with pytest.raises(RequestError, match="no feature vision_tokens"):
        dataset.stored("a", "vision_tokens")


def test_vision_tokens_that_are_stored_are_not_derived(projected):
    stored = FeatureSpec(
        name="vision_tokens", shape=(4, 3), axes=("token", "channel"), dtype="float16", role="input"
    )
    dataset = projected((QUERIES, EGO, stored))
    assert dataset.feature("vision_tokens") == stored
    assert not dataset.read("a", "vision_tokens").any()


def test_vision_tokens_that_cannot_be_derived(dataset: Path, projected):
    with pytest.raises(RequestError, match="no feature vision_tokens"):
        LatentDataset.open(dataset).read(CLIPS[0].name, "vision_tokens")
    wrong = PROJECTIONS | {"map.weight": np.zeros((3, 3), np.float32)}
    with pytest.raises(DatasetError, match=r"teacher_heads has map.weight of \(3, 3\)"):
        projected(heads=wrong).read("a", "vision_tokens")


def test_unknown_plugin_names_the_nearest():
    table = {"orion-7b": "a:b", "orion-tiny": "c:d"}
    with pytest.raises(RequestError, match="did you mean 'orion-tiny'"):
        resolve(table, "orion-tyni", kind="teacher")
    with pytest.raises(RequestError, match="cannot be imported"):
        resolve(table, "no_such_package.x:Y", kind="teacher")
    assert resolve(table, "cache_schema.errors:CheckpointError", kind="teacher") is CheckpointError


def test_cache_schema_loads_no_torch():
    code = (
        "import sys, cache_schema.dataset.reader, cache_schema.dataset.writer\n"
        "import cache_schema.integrity.verify\n"
        "import cache_schema.describe.inspect, cache_schema.vocabulary.orion, cache_schema.plugins\n"
        "loaded = {'torch', 'dask', 'transformers', 'pipeline', 'student'} & set(sys.modules)\n"
        "sys.exit(f'loaded {loaded}' if loaded else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)

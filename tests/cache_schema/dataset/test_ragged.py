"""Ragged features: written frame by frame or together, read one frame at a time, and never more than that."""

import tracemalloc
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import tensorstore as ts

from cache_schema.dataset.reader import LatentDataset
from cache_schema.dataset.writer import DatasetWriter
from cache_schema.errors import DatasetError, FeatureError, RequestError
from cache_schema.format.features import FeatureSpec
from cache_schema.format.ledger import ClipInfo
from tests.cache_schema.dataset.test_reader import CountingBackend
from tests.cache_schema.format_2 import (
    CLIPS,
    FEATURES,
    LENGTHS,
    RAGGED,
    assert_equal,
    manifest_of,
    values_of,
    write_format_2,
)
from tests.cache_schema.tampering import edit_entry, record_again

CLIP = CLIPS[0].name


@pytest.mark.parametrize("spec", FEATURES, ids=lambda spec: spec.name)
def test_what_is_written_is_read(format_2: Path, spec: FeatureSpec):
    opened = LatentDataset.open(format_2)
    assert opened.manifest.format_version == 2
    for info in CLIPS:
        assert opened.clip(info.name) == info
        values = values_of(info.name)[spec.name]
        assert_equal(opened.read(info.name, spec.name), values)
        for frames in (slice(1, 3), slice(None, None, 2), slice(0, 0)):
            assert_equal(opened.read(info.name, spec.name, frames), values[frames])
        for numbers in ([1, 0], [0, 0, 1], [-1], [0, 1]):
            picked = [values[number] for number in numbers]
            expected = picked if spec.ragged else np.stack(picked)
            assert_equal(opened.read(info.name, spec.name, np.array(numbers)), expected)
        assert_equal([opened.read(info.name, spec.name, 1)], [values[1]])
    with pytest.raises(RequestError, match="has no frame 5"):
        opened.read(CLIP, spec.name, 5)


def test_a_mask_chooses_frames(format_2: Path):
    chosen = np.array([True, False, True, False, False])
    tokens = values_of(CLIP)["tokens"]
    assert_equal(LatentDataset.open(format_2).read(CLIP, "tokens", chosen), [tokens[0], tokens[2]])


def test_frame_by_frame_equals_all_at_once(tmp_path: Path, format_2: Path):
    values = values_of(CLIP)
    with DatasetWriter(tmp_path / "x.zarr", manifest_of(), {"heads.safetensors": b""}) as writer:
        clip = writer.clip(CLIPS[0])
        for frame in range(CLIPS[0].frames):
            clip.append({name: array[frame : frame + 1] for name, array in values.items()})
        assert clip.commit(wall_s=0).digest == LatentDataset.open(format_2).entry(CLIP).digest


def test_what_is_stored_is_flat_and_travels_undecoded(format_2: Path, tmp_path: Path):
    opened = LatentDataset.open(format_2)
    values = values_of(CLIP)
    stored = opened.stored(CLIP, "maps", np.array([2, 0]))
    # The lower triangle row by row, of two layers of 4 x 4 and of 3 x 3.
    rows, columns = np.array([(i, j) for i in range(4) for j in range(i + 1)]).T
    assert stored["maps"].shape == (2 * 10 + 2 * 6,)
    np.testing.assert_array_equal(stored["maps"][:20], values["maps"][2][:, rows, columns].ravel())
    assert stored["maps.shape"].tolist() == [[2, 4, 4], [2, 3, 3]]
    assert stored["maps.shape"].dtype == np.int32
    (points, shapes) = opened.stored(CLIP, "points").values()
    assert (points.dtype, shapes.tolist()) == (np.uint16, [[n, 3] for n in LENGTHS[CLIP]])
    # As it is stored, another dataset takes it.
    with DatasetWriter(tmp_path / "x.zarr", manifest_of(), {"heads.safetensors": b""}) as writer:
        clip = writer.clip(CLIPS[0])
        for spec in FEATURES:
            for frames in (slice(0, 2), slice(2, 5)):
                clip.append_stored(spec.name, opened.stored(CLIP, spec.name, frames))
        assert clip.commit(wall_s=0).digest == opened.entry(CLIP).digest


def test_all_values_as_one_dask_array(format_2: Path):
    opened = LatentDataset.open(format_2)
    for spec in RAGGED:
        values = [value for info in CLIPS for value in values_of(info.name)[spec.name]]
        if spec.encoding == "lower-triangle":
            values = [value[:, np.tri(value.shape[-1], dtype=bool)] for value in values]
        together = np.concatenate([value.ravel() for value in values])
        lazy = opened.dask(spec.name)
        assert (lazy.shape, lazy.dtype) == (together.shape, together.dtype)
        np.testing.assert_array_equal(lazy.compute(scheduler="synchronous"), together)
        np.testing.assert_array_equal(lazy[3:9].compute(scheduler="synchronous"), together[3:9])
        assert lazy[7].compute(scheduler="synchronous") == together[7]


def test_declared_derivations_are_read_like_features(format_2: Path):
    opened = LatentDataset.open(format_2)
    rows = values_of(CLIP)["rows"].astype(np.float32)  # (5, 3, 2)
    late, early = rows[:, 2:], rows[:, :2]
    expected = [[[a, b, a + b + 5] for a, b in frame] for frame in np.concatenate([late, early], 1).tolist()]
    assert opened.read(CLIP, "wide").tolist() == expected
    assert opened.feature("wide").segments == (("late", 1), ("early", 2))
    assert opened.holder("wide") is opened


def test_one_frame_costs_its_own_chunks(format_2: Path):
    """The first clip has 280,000 bytes of images: five chunks of 65,536, of which a frame touches a few."""
    opened = LatentDataset.open(CountingBackend(format_2))
    opened.backend.taken.clear()
    image = opened.read(CLIP, "image", 1)  # 20,000 bytes from 60,000 on: in the first chunk and the second
    np.testing.assert_array_equal(image, values_of(CLIP)["image"][1])
    folder = f"clips/{CLIP}/image"
    taken = [(name, size) for name, size in opened.backend.taken if not name.endswith(".json")]
    chunk_bytes = 65_536 + 4
    assert taken == [
        (f"{folder}.shape/c.0.0", 5 * 4 + 4),
        (f"{folder}/c.0", 5 * 16 + 4),
        (f"{folder}/c.0", 2 * chunk_bytes),
    ]
    # Shapes and the places of chunks are remembered.
    opened.backend.taken.clear()
    opened.read(CLIP, "image", slice(1, 3))  # up to byte 160,000
    assert opened.backend.taken == [(f"{folder}/c.0", 3 * chunk_bytes)]


def test_a_long_clip_is_cut_into_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cache_schema.format.layout.SHARD_BYTES", 2 * 65_536)
    path = write_format_2(tmp_path / "x.zarr")
    opened = LatentDataset.open(path)
    files = opened.entry(CLIP).files
    # Five chunks of 65,536 bytes, two a shard; every index has room for two.
    assert {name: files[name].nbytes for name in files if name.startswith("image/c")} == {
        "image/c.0": 2 * 65_540 + 2 * 16 + 4,
        "image/c.1": 2 * 65_540 + 2 * 16 + 4,
        "image/c.2": 65_540 + 2 * 16 + 4,
    }
    assert opened.entry(CLIP).values["image"] == 280_000
    assert_equal(opened.read(CLIP, "image"), values_of(CLIP)["image"])


def test_tensorstore_reads_the_same(format_2: Path):
    values = np.concatenate(values_of(CLIP)["image"])
    kvstore = {"driver": "file", "path": f"{format_2}/clips/{CLIP}/image/"}
    array = ts.open({"driver": "zarr3", "kvstore": kvstore, "fill_missing_data_reads": False}).result()
    assert array.domain.labels == ("value",)
    np.testing.assert_array_equal(array.read().result(), values)
    np.testing.assert_array_equal(array[65_530:65_540].read().result(), values[65_530:65_540])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("tokens", np.zeros((2, 2), np.int32), r"'tokens', frame 1: got an array of shape \(1, 2, 2\)"),
        ("points", np.zeros((2, 4), np.float32), r"expected: n frames of shape \(\*, 3\)"),
        (
            "points",
            np.full((2, 3), np.nan, np.float32),
            "'points', frame 1: 6 of 6 values do not fit bfloat16",
        ),
        ("points", np.full((2, 3), 3.4e38, np.float32), "do not fit bfloat16"),
        ("attention", np.full((1, 2), 1e6), "'attention', frame 1: 2 of 2 values do not fit float16"),
        ("tokens", np.array([1.5]), "'tokens', frame 1: 1 of 1 values do not fit int32"),
        ("image", np.array([256]), "do not fit uint8"),
        ("maps", np.zeros((2, 3, 4), np.float32), "got an array of shape"),
        ("maps", np.zeros((3, 3, 3), np.float32), "got an array of shape"),
        ("maps", np.ones((2, 2, 2), np.float32), "'maps', frame 1: 2 of 8 values are no part of it"),
        ("tokens", np.zeros(2**26 + 1, np.int32), "got an array of shape"),
    ],
    ids=range(11),
)
def test_a_value_that_does_not_fit_is_refused_by_name(tmp_path: Path, name, value, message):
    with DatasetWriter(tmp_path / "x.zarr", manifest_of(), {"heads.safetensors": b""}) as writer:
        clip = writer.clip(CLIPS[0])
        clip.append({key: array[:1] for key, array in values_of(CLIP).items()})
        with pytest.raises(FeatureError, match=message):
            clip.append({name: [value]})
        clip.abort()


def test_above_the_diagonal_of_a_fixed_shape(tmp_path: Path):
    with DatasetWriter(tmp_path / "x.zarr", manifest_of(), {"heads.safetensors": b""}) as writer:
        clip = writer.clip(CLIPS[0])
        values = values_of(CLIP)["square"].copy()
        values[3, 1, 0, 2] = 0.5
        with pytest.raises(FeatureError, match=r"'square', frame 3: 1 of 90 values .*, the first is 0.5"):
            clip.append({"square": values})
        clip.abort()


def test_too_few_and_too_many_frames(tmp_path: Path):
    values = values_of(CLIP)
    with DatasetWriter(tmp_path / "x.zarr", manifest_of(), {"heads.safetensors": b""}) as writer:
        clip = writer.clip(CLIPS[0])
        clip.append(values)
        with pytest.raises(FeatureError, match="with n at most 0"):
            clip.append({"tokens": values["tokens"][:1]})
        short = writer.clip(CLIPS[0])
        short.append({name: array[:4] for name, array in values.items()})
        with pytest.raises(FeatureError, match="expected: 5 frames"):
            short.commit(wall_s=0)


def test_tags_that_were_not_promised(tmp_path: Path):
    info = CLIPS[0].model_copy(update={"tags": {"city": "Boston", "driver": "Ann"}})
    with (
        DatasetWriter(tmp_path / "x.zarr", manifest_of(), {"heads.safetensors": b""}) as writer,
        pytest.raises(FeatureError, match="tags that were never promised: driver"),
    ):
        writer.clip(info)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int64", "bool"])
def test_extremes_of_integers(tmp_path: Path, dtype: str):
    lowest, highest = (False, True) if dtype == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    specs = (
        FeatureSpec(name="flat", shape=(None,), axes=("a",), dtype=dtype, role="target"),
        FeatureSpec(name="fixed", shape=(2,), axes=("a",), dtype=dtype, role="target"),
    )
    manifest = manifest_of().replace(features=specs, derivations=(), assets=())
    values = np.array([[lowest, highest], [highest, highest]], dtype)
    with DatasetWriter(tmp_path / "x.zarr", manifest) as writer:
        clip = writer.clip(ClipInfo(name="a", frames=2, split="train"))
        clip.append({"flat": list(values), "fixed": values})
        clip.commit(wall_s=0)
    opened = LatentDataset.open(tmp_path / "x.zarr")
    assert_equal(opened.read("a", "flat"), list(values))
    assert_equal(opened.read("a", "fixed"), values)


def put_shapes(path: Path, feature: str, shapes: list) -> None:
    """Write other shapes of the first clip's frames, and make all digests fit."""
    content = np.array(shapes, "<i4").tobytes()
    file = path / "clips" / CLIP / f"{feature}.shape" / "c.0.0"
    file.write_bytes(content + google_crc32c.value(content).to_bytes(4, "little"))
    record_again(path, CLIP)


@pytest.mark.parametrize(
    ("feature", "shapes"),
    [
        ("tokens", [3, 1, 4, 1, 6]),
        ("tokens", [3, 1, 4, 1, -5]),
        ("tokens", [2**31 - 1] * 5),
        ("tokens", [14, 0, 0, 0, 2**31 - 1]),
        ("attention", [[2**30, 2**30]] * 5),
        ("attention", [[0, 2**31 - 1]] * 5),
        ("attention", [[51, 2], [0, 1], [0, 1], [0, 1], [0, 2**30]]),
        ("maps", [[2, 3, 3], [2, 1, 1], [2, 4, 4], [2, 1, 1], [2, 5, 6]]),
        ("maps", [[2, 3, 3], [2, 1, 1], [2, 4, 4], [2, 1, 1], [1, 5, 5]]),
        ("points", [[1, 9], [1, 3], [4, 3], [1, 3], [5, 3]]),
    ],
    ids=range(10),
)
def test_shapes_that_lie_make_no_reader_ask_for_memory(format_2: Path, feature: str, shapes: list):
    put_shapes(format_2, feature, shapes)
    opened = LatentDataset.open(format_2)
    tracemalloc.start()
    with pytest.raises(DatasetError, match=f"feature '{feature}': the shapes of its frames are not those"):
        opened.read(CLIP, feature, 0)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("values", [0, 13, 15, 65_537, 2**40])
def test_counts_that_lie_make_no_reader_ask_for_memory(format_2: Path, values: int):
    edit_entry(format_2, CLIP, lambda entry: entry["values"].update(tokens=values))
    opened = LatentDataset.open(format_2)
    with pytest.raises(DatasetError, match="tokens"):
        opened.read(CLIP, "tokens", 0)
    assert_equal(opened.read(CLIP, "rows"), values_of(CLIP)["rows"])


def test_a_count_that_is_missing(format_2: Path):
    edit_entry(format_2, CLIP, lambda entry: entry["values"].pop("tokens"))
    with pytest.raises(DatasetError, match="the ledger entry lacks the number of values of 'tokens'"):
        LatentDataset.open(format_2).read(CLIP, "tokens", 0)

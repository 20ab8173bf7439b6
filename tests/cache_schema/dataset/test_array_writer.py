"""The files of an array, byte for byte those of Zarr's own writer."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import Crc32cCodec

from cache_schema.dataset import array_writer
from cache_schema.dataset.array_writer import ArrayWriter
from cache_schema.format.encodings import StoredArray
from cache_schema.format.features import FeatureSpec
from cache_schema.format.layout import file_sizes, fill_value_of, layout_of

SPEC = FeatureSpec(
    name="x", shape=(2,), axes=("é",), dtype="int8", role="input", unit="m/s", description='ü "q" \u2028'
)


def written_by_zarr(folder: Path, stored: StoredArray, values: np.ndarray) -> None:
    layout = layout_of(stored, len(values))
    array = zarr.create_group(folder).create_array(
        stored.name,
        shape=values.shape,
        dtype=stored.dtype,
        chunks=layout.chunks,
        shards=layout.shards,
        filters=None,
        compressors=[Crc32cCodec()],
        fill_value=fill_value_of(stored),
        dimension_names=(stored.leading, *stored.axes),
        chunk_key_encoding={"name": "default", "separator": "."},
        attributes={
            "role": "input",
            "unit": "m/s",
            "frame": None,
            "encoding": "full",
            "description": 'ü "q" \u2028',
        },
        config={"write_empty_chunks": True},
    )
    if len(values):
        array[:] = values


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((folder / "x").iterdir())}


ARRAYS = st.builds(
    lambda shape, dtype: StoredArray("x", tuple(shape), dtype, tuple(f"axis_{n}" for n in range(len(shape)))),
    st.lists(st.integers(1, 6), max_size=3),
    st.sampled_from(["float16", "float32", "float64", "int8", "int64", "uint8", "uint16", "bool"]),
) | st.builds(
    lambda dtype: StoredArray("x", (), dtype, (), "value"), st.sampled_from(["float16", "uint8", "float64"])
)


@given(stored=ARRAYS, length=st.integers(0, 40), per_shard=st.integers(1, 4), seed=st.integers(0, 9))
@settings(max_examples=150, deadline=None)
def test_as_zarr_writes_it(stored: StoredArray, length: int, per_shard: int, seed: int):
    choice = np.random.default_rng(seed)
    length = max(length, int(stored.leading == "frame"))
    values = choice.integers(-3, 4, (length, *stored.shape)).astype(stored.dtype)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("cache_schema.format.layout.PAGE_BYTES", 16)
        patch.setattr("cache_schema.format.layout.CHUNK_VALUES", 8)
        chunk = 8 if stored.leading == "value" else 1
        patch.setattr("cache_schema.format.layout.SHARD_BYTES", per_shard * chunk * stored.nbytes)
        patch.setattr(array_writer, "BUFFER_BYTES", int(choice.integers(0, 100)))
        ours, theirs = Path(folder, "ours"), Path(folder, "theirs")
        ours.mkdir()
        writer = ArrayWriter(ours, SPEC, stored, length if stored.leading == "frame" else None)
        begin = 0
        while begin < length:
            end = begin + int(choice.integers(0, 12))
            writer.append(values[begin:end])
            begin = end
        writer.finish()
        assert writer.length == length
        written_by_zarr(theirs, stored, values)
        assert content(ours) == content(theirs)
        sizes = {f"x/{name}": len(file) for name, file in content(theirs).items() if name != "zarr.json"}
        assert sizes == file_sizes(stored, length)


def test_memory_does_not_grow_with_the_clip(tmp_path: Path):
    """Values come one frame at a time; what waits for the disk is a buffer, never a shard."""
    stored = StoredArray("x", (), "float16", (), "value")
    writer = ArrayWriter(tmp_path, SPEC, stored, None)
    for _ in range(40):
        writer.append(np.ones(200_001, np.float16))
        assert len(writer._buffer) <= array_writer.BUFFER_BYTES + 65_536 * 2 + 4
    assert (tmp_path / "x" / "c.0").stat().st_size > 13_000_000
    writer.finish()
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "x", mode="r")[:], np.ones(40 * 200_001))

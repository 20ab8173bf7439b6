"""Layout and sizes as arithmetic, against what Zarr really writes."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_schema.dataset.writer import DatasetWriter
from cache_schema.format.encodings import StoredArray, stored_arrays
from cache_schema.format.features import FeatureSpec
from cache_schema.format.layout import PAGE_BYTES, SHARD_BYTES, file_sizes, fill_value_of, layout_of
from cache_schema.format.ledger import ClipInfo
from cache_schema.format.manifest import CodeIdentity, DataIdentity, Manifest, TeacherIdentity


def stored(shape: tuple[int, ...] = (2, 3), dtype: str = "float16", name: str = "x") -> StoredArray:
    return StoredArray(name, shape, dtype, tuple(f"axis_{number}" for number in range(len(shape))))


@given(rows=st.integers(1, 600), columns=st.integers(1, 4096), frames=st.integers(1, 3000))
def test_layout(rows: int, columns: int, frames: int):
    array = stored((rows, columns))
    layout = layout_of(array, frames)
    assert layout.chunks[1:] == array.shape
    if array.nbytes < PAGE_BYTES:
        assert layout == ((frames, rows, columns), None)
        return
    assert layout.chunks[0] == 1
    assert layout.shards is not None
    assert 1 <= layout.shards[0] <= frames
    # As many frames as fit, and never more bytes than the cap.
    assert layout.shards[0] * array.nbytes <= SHARD_BYTES
    assert layout.shards[0] == frames or (layout.shards[0] + 1) * array.nbytes > SHARD_BYTES


def test_scales_are_read_frame_by_frame_like_their_values():
    assert layout_of(stored((256,), "float32", "x.scale"), 248) == ((1, 256), (248, 256))


def test_fill_values_show_what_was_never_written():
    assert np.isnan(fill_value_of(stored()))
    assert fill_value_of(stored(dtype="int8")) == 0
    assert fill_value_of(stored(dtype="bool")) is False


def test_sizes_by_hand():
    # One chunk of 5 frames of 6 values of 2 bytes, and its checksum.
    assert file_sizes(stored(), 5) == {"x/c.0.0.0": 64}
    assert file_sizes(stored(()), 5) == {"x/c.0": 14}
    # 5 chunks with checksums, an index of 16 bytes for each, and its checksum.
    assert file_sizes(stored((2048,)), 5) == {"x/c.0.0": 5 * (4096 + 4) + 5 * 16 + 4}
    # Two shards of 200 MiB and 100 MiB; the index of the second has room for as many as the first.
    frame = 100 * 2**20
    assert file_sizes(stored((frame // 2,)), 3) == {
        "x/c.0.0": 2 * (frame + 4) + 2 * 16 + 4,
        "x/c.1.0": frame + 4 + 2 * 16 + 4,
    }


SPECS = st.builds(
    lambda shape, dtype: FeatureSpec(
        name="x",
        shape=shape,
        axes=tuple(f"axis_{number}" for number in range(len(shape))),
        dtype=dtype,
        role="input",
        encoding="int8-per-channel" if dtype == "float16" and len(shape) > 1 else "full",
    ),
    st.lists(st.integers(1, 40), max_size=3).map(tuple),
    st.sampled_from(["float16", "float32", "float64", "int8", "bool"]),
)


@given(spec=SPECS, frames=st.integers(1, 9), frames_a_shard=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_sizes_are_those_that_zarr_writes(spec: FeatureSpec, frames: int, frames_a_shard: int):
    manifest = Manifest(
        features=(spec,),
        teacher=TeacherIdentity(name="tiny", weights="random:0", precision="fp32"),
        data=DataIdentity(name="synthetic", licence="CC0-1.0", frame_rate_hz=10),
        code=CodeIdentity(teachonce="0", libraries={}),
    )
    values = np.random.default_rng(0).normal(size=(frames, *spec.shape))
    with (
        tempfile.TemporaryDirectory() as folder,
        pytest.MonkeyPatch.context() as patch,
        DatasetWriter(Path(folder), manifest) as writer,
    ):
        patch.setattr("cache_schema.format.layout.SHARD_BYTES", frames_a_shard * spec.nbytes)
        clip = writer.clip(ClipInfo(name="one", frames=frames, split="train"))
        clip.append({"x": (values > 0).astype(spec.dtype) if spec.dtype[0] in "ib" else values})
        entry = clip.commit(wall_s=0)
        written = {name: file.nbytes for name, file in entry.files.items() if not name.endswith("zarr.json")}
        promised = [file_sizes(array, frames) for array in stored_arrays(spec)]
        assert written == {name: size for sizes in promised for name, size in sizes.items()}


def flat(dtype: str = "float16") -> StoredArray:
    return StoredArray("x", (), dtype, (), "value")


def test_flat_values_by_hand():
    # One chunk of just these values; none at all; one full chunk.
    assert layout_of(flat(), 5) == ((5,), None)
    assert file_sizes(flat(), 5) == {"x/c.0": 14}
    assert layout_of(flat(), 0) == ((1,), None)
    assert file_sizes(flat(), 0) == {}
    assert file_sizes(flat(), 65_536) == {"x/c.0": 2 * 65_536 + 4}
    # One more: two chunks of 65,536, the second padded, and an index of two.
    assert layout_of(flat(), 65_537) == ((65_536,), (2 * 65_536,))
    assert file_sizes(flat(), 65_537) == {"x/c.0": 2 * (2 * 65_536 + 4) + 2 * 16 + 4}
    # 2,048 chunks of float16 fill a shard of 256 MiB; the last shard has room for as many.
    values = 2048 * 65_536 + 1
    assert file_sizes(flat(), values) == {
        "x/c.0": 2048 * (2 * 65_536 + 4) + 2048 * 16 + 4,
        "x/c.1": (2 * 65_536 + 4) + 2048 * 16 + 4,
    }
    assert layout_of(flat("uint8"), values).shards == (2049 * 65_536,)
    assert fill_value_of(flat("float64")) == 0


def test_the_most_values_that_a_ledger_may_have_are_few_files():
    assert len(file_sizes(flat("float64"), 2**40)) == 2**15

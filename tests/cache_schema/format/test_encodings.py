import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pydantic import ValidationError

from cache_schema.format.encodings import decode, encode, stored_arrays
from cache_schema.format.features import FeatureSpec


def spec(encoding: str, dtype: str = "float32", shape: tuple[int, ...] = (2, 3)) -> FeatureSpec:
    axes = tuple(f"axis_{number}" for number in range(len(shape)))
    return FeatureSpec(name="x", shape=shape, axes=axes, dtype=dtype, role="input", encoding=encoding)


def frames(dtype: str, dimensions: int, most: float | None = None):
    """Any finite values of any shape (n, *shape), subnormal ones and the largest included."""
    shapes = array_shapes(min_dims=dimensions, max_dims=4, max_side=5)
    width = 8 * np.dtype(dtype).itemsize
    bounds = {} if most is None else {"min_value": -most, "max_value": most}
    return arrays(
        dtype, shapes, elements=st.floats(width=width, allow_nan=False, allow_infinity=False, **bounds)
    )


def test_stored_arrays_have_names_shapes_and_dtypes():
    assert stored_arrays(spec("full", "float16")) == (
        ("x", (2, 3), "float16", ("axis_0", "axis_1"), "frame"),
    )
    assert stored_arrays(spec("bfloat16")) == (("x", (2, 3), "uint16", ("axis_0", "axis_1"), "frame"),)
    values, scale = stored_arrays(spec("int8-per-channel", "float16"))
    assert values == ("x", (2, 3), "int8", ("axis_0", "axis_1"), "frame")
    assert scale == ("x.scale", (3,), "float32", ("axis_1",), "frame")
    assert (values.nbytes, scale.nbytes) == (6, 12)


def test_int8_by_hand():
    values = np.array([[[127, 0, 1e4], [-63.6, 0, -5e3]], [[254, 3, 0], [254, -3, 0]]], np.float16)
    stored = encode(spec("int8-per-channel", "float16"), values)
    # A scale a frame and channel: the largest magnitude over 127. Halves go to the even neighbour.
    scale = [[1, 0, np.float32(1e4 / 127)], [2, np.float32(3 / 127), 0]]
    assert stored["x.scale"].dtype == np.float32
    assert stored["x.scale"].tolist() == scale
    assert stored["x"].dtype == np.int8
    assert stored["x"].tolist() == [[[127, 0, 127], [-64, 0, -64]], [[127, 127, 0], [127, -127, 0]]]
    read = decode(spec("int8-per-channel", "float16"), stored)
    assert read.dtype == np.float16
    # -64 steps of 1e4 / 127 are -5039.4, of which float16 has -5040.
    assert read.tolist() == [[[127, 0, 1e4], [-64, 0, -5040]], [[254, 3, 0], [254, -3, 0]]]


def test_bfloat16_by_hand():
    # The upper 16 bits of a float32, rounded to nearest, ties to even.
    bits = {
        0x3F800000: 0x3F80,
        0x3F808000: 0x3F80,
        0x3F818000: 0x3F82,
        0x3F808001: 0x3F81,
        0xBF80FFFF: 0xBF81,
    }
    values = np.array([list(bits)], np.uint32).view(np.float32)[..., None]
    stored = encode(spec("bfloat16"), values)
    assert stored["x"].dtype == np.uint16
    assert stored["x"].ravel().tolist() == list(bits.values())
    read = decode(spec("bfloat16"), stored)
    assert read.dtype == np.float32
    assert read.ravel().tolist() == [1, 1, 1.015625, 1.0078125, -1.0078125]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@given(data=st.data())
def test_int8_is_never_further_off_than_half_a_step(dtype: str, data):
    values = data.draw(frames(dtype, 3))
    feature = spec("int8-per-channel", dtype, values.shape[1:])
    stored = encode(feature, values)
    read = decode(feature, stored)
    assert read.dtype == values.dtype
    assert np.isfinite(read).all()
    assert abs(stored["x"].astype(int)).max() <= 127
    exact = values.astype(np.float64)
    largest = abs(exact).max(axis=tuple(range(1, values.ndim - 1)), keepdims=True)
    kind = np.finfo(dtype)
    # Half a step, whose length float32 rounds, and the rounding of what is read.
    step = largest / 127 * (1 + 2**-20) + 2.0**-149
    rounding = np.maximum(largest * kind.eps, kind.smallest_subnormal) / 2 * (1 + 2**-7)
    assert (abs(read - exact) <= step / 2 + rounding).all()
    # A channel of zeros stays one, and no other channel becomes one.
    assert ((abs(read).max(axis=tuple(range(1, values.ndim - 1)), keepdims=True) > 0) == (largest > 0)).all()


def test_the_ends_of_float32_by_hand():
    kind = np.finfo(np.float32)
    tiny = float(kind.smallest_subnormal)
    values = np.array([[[kind.max, 190 * tiny, tiny], [-kind.max, 2 * tiny, 0]]], np.float32)
    stored = encode(spec("int8-per-channel", shape=(2, 3)), values)
    # 190 / 127 would be rounded to 1 smallest subnormal, of which 190 are more than 127.
    assert stored["x.scale"][0, 1:].tolist() == [2 * tiny, tiny]
    assert stored["x"].tolist() == [[[127, 95, 1], [-127, 1, 0]]]
    read = decode(spec("int8-per-channel", shape=(2, 3)), stored)
    assert read[..., 1:].tolist() == values[..., 1:].tolist()
    np.testing.assert_allclose(read[..., 0], values[..., 0], rtol=1e-6)


@given(values=frames("float32", 1, most=float.fromhex("0x1.fep127")))
def test_bfloat16_keeps_eight_bits(values: np.ndarray):
    read = decode(spec("bfloat16", shape=values.shape[1:]), encode(spec("bfloat16"), values))
    exact = values.astype(np.float64)
    # Half a unit of 8 bits; below the normal numbers, half of the smallest one.
    assert (abs(read - exact) <= np.maximum(abs(exact) * 2**-8, 2.0**-134)).all()


@given(values=frames("float16", 1))
def test_full_keeps_everything(values: np.ndarray):
    feature = spec("full", "float16", values.shape[1:])
    np.testing.assert_array_equal(decode(feature, encode(feature, values)), values)


@pytest.mark.parametrize("encoding", ["bfloat16", "int8-per-channel"])
def test_every_frame_is_encoded_by_itself(encoding: str):
    values = np.random.default_rng(0).normal(size=(6, 2, 3)).astype(np.float32)
    together = encode(spec(encoding), values)
    for name, array in together.items():
        alone = [encode(spec(encoding), values[begin : begin + 2])[name] for begin in (0, 2, 4)]
        np.testing.assert_array_equal(np.concatenate(alone), array)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_one_massive_channel_leaves_the_others_their_precision(dtype: str):
    values = np.random.default_rng(0).normal(size=(4, 50, 8)).astype(dtype)
    values[..., 3] *= 2e4
    values[..., 5] *= 1e-4
    feature = spec("int8-per-channel", dtype, values.shape[1:])
    read = decode(feature, encode(feature, values))
    error = np.sqrt(np.square(read.astype(np.float64) - values).mean((0, 1)))
    assert (error / values.astype(np.float64).std((0, 1)) < 0.01).all()


@pytest.mark.parametrize(
    ("encoding", "dtype", "shape"),
    [
        ("bfloat16", "float16", (2, 3)),
        ("int8-per-channel", "float64", (2, 3)),
        ("int8-per-channel", "int8", (2, 3)),
        ("int8-per-channel", "float32", (3,)),
        ("int4", "float32", (2, 3)),
    ],
)
def test_an_encoding_that_makes_no_sense_is_refused(encoding: str, dtype: str, shape: tuple[int, ...]):
    with pytest.raises(ValidationError, match=r"encoding|bfloat16|int8-per-channel"):
        spec(encoding, dtype, shape)


def test_a_lower_triangle_by_hand():
    feature = spec("lower-triangle", "int8", (1, 3, 3))
    (stored,) = stored_arrays(feature)
    assert stored == ("x", (1, 6), "int8", ("axis_0", "lower_triangle"), "frame")
    values = np.array([[[[1, 0, 0], [2, 3, 0], [4, 5, 6]]], [[[7, 0, 0], [0, 8, 0], [0, 0, 9]]]], np.int8)
    packed = encode(feature, values)
    assert packed["x"].tolist() == [[[1, 2, 3, 4, 5, 6]], [[7, 0, 8, 0, 0, 9]]]
    np.testing.assert_array_equal(decode(feature, packed), values)
    assert decode(feature, packed).dtype == np.int8


def test_ragged_values_by_hand():
    feature = spec("full", "int16", (None, 2))
    flat, shapes = stored_arrays(feature)
    assert flat == ("x", (), "int16", (), "value")
    assert shapes == ("x.shape", (2,), "int32", ("axis",), "frame")
    values = [np.array(rows, np.int16).reshape(-1, 2) for rows in ([[1, 2], [3, 4]], [], [[5, 6]])]
    stored = encode(feature, values)
    assert stored["x"].tolist() == [1, 2, 3, 4, 5, 6]
    assert stored["x.shape"].tolist() == [[2, 2], [0, 2], [1, 2]]
    assert (stored["x"].dtype, stored["x.shape"].dtype) == (np.int16, np.int32)
    assert [value.tolist() for value in decode(feature, stored)] == [[[1, 2], [3, 4]], [], [[5, 6]]]
    assert encode(feature, [])["x"].dtype == np.int16
    with pytest.raises(ValueError, match="add up to 6 values, not 5"):
        decode(feature, stored | {"x": stored["x"][:5]})


def test_a_ragged_triangle_by_hand():
    feature = spec("lower-triangle", "float16", (None, None))
    values = [
        np.array([[1, 0], [2, 3]], np.float16),
        np.zeros((0, 0), np.float16),
        np.ones((1, 1), np.float16),
    ]
    stored = encode(feature, values)
    assert stored["x"].tolist() == [1, 2, 3, 1]
    assert stored["x.shape"].tolist() == [[2, 2], [0, 0], [1, 1]]
    for read, value in zip(decode(feature, stored), values, strict=True):
        np.testing.assert_array_equal(read, value)


@given(
    lengths=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=5),
    encoding=st.sampled_from(["full", "bfloat16", "lower-triangle"]),
)
def test_any_ragged_values_come_back(lengths: list[tuple[int, int]], encoding: str):
    rng = np.random.default_rng(0)
    square = encoding == "lower-triangle"
    values = [rng.integers(-99, 99, (2, n, n if square else m)).astype(np.float32) for n, m in lengths]
    values = [np.tril(value) if square else value for value in values]
    feature = spec(encoding, "float32", (2, None, None))
    read = decode(feature, encode(feature, values))
    assert [value.shape for value in read] == [value.shape for value in values]
    for one, other in zip(read, values, strict=True):
        np.testing.assert_array_equal(one, other)

"""A store of format 1 must open forever, also without this package."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from cache_schema.dataset.reader import LatentDataset
from cache_schema.integrity.verify import verify
from tests.paths import GOLDEN, ROOT

STORE = GOLDEN / "format_1.zarr"
ENCODINGS = STORE.with_name("format_1_encodings.zarr")
FORMAT = ROOT / "cache_schema" / "format" / "FORMAT.md"

CLIPS = {"Accident_Town03_Route9001_Weather0": 3, "TJunction_Town05_Route9002_Weather3": 2}
VALUES = {
    # Name: one frame's shape, and the value at running index n.
    "queries": ((8, 256), lambda n: (n % 2048) / 8),
    "token": ((3,), lambda n: n / 4),
    "pose": ((2, 2), lambda n: n / 8),
    "command": ((), lambda n: n % 6),
    "mask": ((2,), lambda n: n % 2 == 0),
}


def expected(number: int, frames: int, feature: str) -> np.ndarray:
    shape, value = VALUES[feature]
    return value(np.arange(frames * int(np.prod(shape))) + number).reshape(frames, *shape)


@pytest.mark.parametrize("feature", VALUES)
def test_the_golden_store_opens(feature: str):
    dataset = LatentDataset.open(STORE)
    assert dataset.clips == tuple(CLIPS)
    for number, (clip, frames) in enumerate(CLIPS.items()):
        np.testing.assert_array_equal(dataset.read(clip, feature), expected(number, frames, feature))
    assert dataset.clip("TJunction_Town05_Route9002_Weather3").model_dump() == {
        "name": "TJunction_Town05_Route9002_Weather3",
        "frames": 2,
        "split": "val",
        "scenario": "TJunction",
        "town": "Town05",
        "route": "9002",
        "weather": "3",
    }


def test_the_golden_store_is_whole():
    assert verify(STORE).problems == ()
    heads = LatentDataset.open(STORE).asset("teacher_heads")
    np.testing.assert_array_equal(heads["scene.weight"], np.arange(6).reshape(3, 2))


# What the second golden store holds of one clip of two frames, written out.
STEPS = (np.arange(2 * 16 * 256).reshape(2, 16, 256) * 37 % 255 - 127).astype(np.int8)
STEPS[:, 0] = 127  # the largest magnitude of every channel
SCALE = (2.0 ** (np.arange(2 * 256).reshape(2, 256) % 11 - 6)).astype(np.float32)
SCALE[1, 5] = STEPS[1, :, 5] = 0  # a channel of zeros
BITS = np.array([[0x0000, 0x3F80, 0xC0A0], [0x7F7F, 0x8001, 0x4049]], np.uint16)
BFLOATS = np.array([[0, 1, -5], [255 * 2.0**120, -(2.0**-133), 3.140625]], np.float32)


def test_the_golden_store_of_encodings_opens():
    dataset = LatentDataset.open(ENCODINGS)
    (clip,) = dataset.clips
    assert verify(ENCODINGS).problems == ()
    group = zarr.open_group(ENCODINGS / "clips" / clip, mode="r")
    for name, array in (("queries", STEPS), ("queries.scale", SCALE), ("activations", BITS)):
        assert group[name].dtype == array.dtype
        np.testing.assert_array_equal(group[name][:], array)
    queries = dataset.read(clip, "queries")
    assert queries.dtype == np.float16
    np.testing.assert_array_equal(queries, STEPS.astype(np.float64) * SCALE[:, None])
    activations = dataset.read(clip, "activations")
    assert activations.dtype == np.float32
    np.testing.assert_array_equal(activations, BFLOATS)


def test_the_plain_decoder_of_the_format_page():
    dataset = LatentDataset.open(ENCODINGS)
    (clip,) = dataset.clips
    names: dict = {}
    exec(code_blocks()[1], names)
    group = zarr.open_group(ENCODINGS / "clips" / clip, mode="r")
    for feature in zarr.open_group(ENCODINGS, mode="r").attrs["teachonce"]["features"]:
        values = names["decode"](group, feature)
        assert values.dtype == feature["dtype"]
        np.testing.assert_array_equal(values, dataset.read(clip, feature["name"]))


def code_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", FORMAT.read_text(), re.DOTALL)


def test_the_plain_reader_of_the_format_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.copytree(STORE, tmp_path / "NAME.zarr")
    monkeypatch.chdir(tmp_path)
    lines = [line for line in code_blocks()[0].splitlines() if line]
    assert len(lines) <= 10
    # It prints what it reads; here it keeps it.
    values = {}
    probe = "\n".join(lines).replace("print(", "keep(values, ")
    exec(probe, {"keep": lambda array, clip, split, name, *_: values.setdefault((clip, name), array)})
    assert set(values) == {(clip, name) for clip in CLIPS for name in VALUES}
    for number, (clip, frames) in enumerate(CLIPS.items()):
        for name in VALUES:
            np.testing.assert_array_equal(values[clip, name], expected(number, frames, name))

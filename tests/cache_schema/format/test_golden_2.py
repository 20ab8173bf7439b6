"""A store of format 2 must open forever, also without this package. Its values are written out here."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import zarr

from cache_schema.dataset.reader import LatentDataset
from cache_schema.integrity.verify import verify
from tests.cache_schema.format_2 import assert_equal
from tests.paths import GOLDEN, ROOT

STORE = GOLDEN / "format_2.zarr"
FORMAT = ROOT / "cache_schema" / "format" / "FORMAT.md"


def int32(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def float16(*rows: list) -> np.ndarray:
    return np.array(rows, np.float16)


def float32(*rows: list) -> np.ndarray:
    return np.array(rows, np.float32)


def image(first: int, length: int) -> np.ndarray:
    """Bytes that count up and start again at 200."""
    return (np.arange(first, first + length) % 200).astype(np.uint8)


CLIPS = {
    # Clip: its tags, and its features frame by frame.
    "junction-1": (
        {"city": "Boston", "weather": "rain"},
        {
            "ids": [int32(7, 0, 30_000), int32(), int32(-5)],
            # Three images of one more byte together than a chunk of 65,536 has room for.
            "image": [image(0, 65_530), image(65_530, 3), image(65_533, 4)],
            "attention": [float16([1, 0.5], [0.25, 0]), np.empty((1, 0), np.float16), float16([0.125])],
            "maps": [
                float32([[1]], [[-1]]),
                np.empty((2, 0, 0), np.float32),
                float32([[1, 0, 0], [2, 3, 0], [4, 5, 6]], [[0.5, 0, 0], [0, 0.25, 0], [0, 0, 0.125]]),
            ],
            "points": [float32([1, -5]), float32([1, 1.015625], [0, 3.140625]), np.empty((0, 2), np.float32)],
            "square": float16([[1, 0], [2, 3]], [[4, 0], [5, 6]], [[0, 0], [0, -0.5]]),
            "rows": float16([[1, 2], [3, 4]], [[0, 0], [0.5, -1]], [[8, 8], [-8, 8]]),
            "frame_index": int32(0, 2, 4),
            "wide": float32(
                [[3, 4, 7.5], [1, 2, 3.5]], [[0.5, -1, 0], [0, 0, 0.5]], [[-8, 8, 0.5], [8, 8, 16.5]]
            ),
        },
    ),
    "junction-2": (
        {},
        {
            "ids": [int32(), int32()],
            "image": [image(0, 0), image(0, 0)],
            "attention": [np.empty((0, 9), np.float16), np.empty((3, 0), np.float16)],
            "maps": [np.empty((2, 0, 0), np.float32)] * 2,
            "points": [np.empty((0, 2), np.float32)] * 2,
            "square": float16([[1, 0], [0, 1]], [[0, 0], [7, 0]]),
            "rows": float16([[1, 1], [1, 1]], [[2, 0], [0, 2]]),
            "frame_index": int32(0, 1),
            "wide": float32([[1, 1, 2.5], [1, 1, 2.5]], [[0, 2, 2.5], [2, 0, 2.5]]),
        },
    ),
}


@pytest.mark.parametrize("feature", CLIPS["junction-1"][1])
def test_the_golden_store_opens(feature: str):
    dataset = LatentDataset.open(STORE)
    assert dataset.manifest.format_version == 2
    assert dataset.clips == tuple(CLIPS)
    for clip, (tags, values) in CLIPS.items():
        assert dataset.clip(clip).tags == tags
        assert_equal(dataset.read(clip, feature), values[feature])
        assert_equal([dataset.read(clip, feature, 1)], [values[feature][1]])


def test_the_golden_store_is_whole():
    assert verify(STORE).problems == ()


def test_what_the_ledger_and_the_files_hold():
    entry = json.loads((STORE / "ledger" / "junction-1.json").read_bytes())
    assert entry["values"] == {"ids": 4, "image": 65_537, "attention": 5, "maps": 14, "points": 6}
    assert json.loads((STORE / "ledger" / "junction-2.json").read_bytes())["values"] == dict.fromkeys(
        entry["values"], 0
    )
    folder = STORE / "clips" / "junction-1"
    group = zarr.open_group(folder, mode="r")
    assert group["maps"][:].tolist() == [1, -1, 1, 2, 3, 4, 5, 6, 0.5, 0, 0.25, 0, 0, 0.125]
    assert group["maps.shape"][:].tolist() == [[2, 1, 1], [2, 0, 0], [2, 3, 3]]
    assert group["square"][:].tolist() == [[1, 2, 3], [4, 5, 6], [0, 0, -0.5]]
    assert group["points"][:].tolist() == [0x3F80, 0xC0A0, 0x3F80, 0x3F82, 0, 0x4049]
    # Two chunks of 65,536 bytes, the second padded with zeros, and an index of two.
    file = (folder / "image" / "c.0").read_bytes()
    assert len(file) == 2 * (65_536 + 4) + 2 * 16 + 4
    assert file[65_540:131_076] == bytes([65_536 % 200]) + bytes(65_535)
    # One smaller chunk where the clip has fewer values; no file where it has none.
    assert (folder / "ids" / "c.0").read_bytes()[:-4] == int32(7, 0, 30_000, -5).tobytes()
    assert [file.name for file in (STORE / "clips" / "junction-2" / "ids").iterdir()] == ["zarr.json"]


def test_the_programs_of_the_format_page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Plain Zarr, and the decoder that is printed there, give every value."""
    reader, decoder = re.findall(r"```python\n(.*?)```", FORMAT.read_text(), re.DOTALL)[:2]
    (tmp_path / "NAME.zarr").symlink_to(STORE)
    monkeypatch.chdir(tmp_path)
    found = {}
    names: dict = {}
    exec(decoder, names)
    probe = reader.replace("print(", "keep(group, feature, ")
    names["keep"] = lambda group, feature, clip, split, name, shape, dtype: found.setdefault(
        (clip, name), names["decode"](group, feature)
    )
    exec(probe, names)
    expected = {
        (clip, name): value
        for clip, (_, values) in CLIPS.items()
        for name, value in values.items()
        if name != "wide"
    }
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert_equal(found[key], value)


SHARED = GOLDEN / "format_2_shared.zarr"
PREFIXES = [float16([1, 2], [3, 4]), float16([0.5, -0.5])]
SHARED_MAPS = [float32([[1, 0], [2, 3]]), float32([[4]])]


def of_frames(first: np.ndarray, second: np.ndarray) -> list[np.ndarray]:
    """Frames 0, 1 and 3 share a value, and frames 2 and 4."""
    return [first, first, second, first, second]


@pytest.mark.parametrize("read", ["package", "page"])
def test_values_that_frames_share(read: str):
    names: dict = {}
    exec(re.findall(r"```python\n(.*?)```", FORMAT.read_text(), re.DOTALL)[1], names)
    dataset = LatentDataset.open(SHARED)
    group = zarr.open_group(SHARED / "clips" / "scene", mode="r")
    features = zarr.open_group(SHARED, mode="r").attrs["teachonce"]["features"]
    for feature, values in zip(features, (PREFIXES, SHARED_MAPS), strict=False):
        name = feature["name"]
        found = dataset.read("scene", name) if read == "package" else names["decode"](group, feature)
        assert_equal(found, of_frames(*values))
    assert group["prefix_frame"][:].tolist() == [0, 0, 2, 0, 2]
    assert group["prefix"][:].tolist() == [1, 2, 3, 4, 0.5, -0.5]
    assert group["prefix.shape"][:].tolist() == [[2, 2], [0, 2], [1, 2], [0, 2], [0, 2]]
    assert group["maps"][:].tolist() == [1, 2, 3, 4]
    assert verify(SHARED).problems == ()

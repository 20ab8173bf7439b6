"""A store of format 1 must open forever, also without this package."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from cache_schema.store import LatentDataset
from cache_schema.verify import verify

GOLDEN = Path(__file__).parents[1] / "golden" / "format_1.zarr"
FORMAT = Path(__file__).parents[2] / "cache_schema" / "FORMAT.md"

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
    dataset = LatentDataset.open(GOLDEN)
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
    assert verify(GOLDEN).problems == ()
    heads = LatentDataset.open(GOLDEN).asset("teacher_heads")
    np.testing.assert_array_equal(heads["scene.weight"], np.arange(6).reshape(3, 2))


def test_the_plain_reader_of_the_format_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.copytree(GOLDEN, tmp_path / "NAME.zarr")
    monkeypatch.chdir(tmp_path)
    match = re.search(r"```python\n(.*?)```", FORMAT.read_text(), re.DOTALL)
    assert match is not None
    lines = [line for line in match[1].splitlines() if line]
    assert len(lines) <= 10
    # It prints what it reads; here it keeps it.
    values = {}
    probe = "\n".join(lines).replace("print(", "keep(values, ")
    exec(probe, {"keep": lambda array, clip, split, name, *_: values.setdefault((clip, name), array)})
    assert set(values) == {(clip, name) for clip in CLIPS for name in VALUES}
    for number, (clip, frames) in enumerate(CLIPS.items()):
        for name in VALUES:
            np.testing.assert_array_equal(values[clip, name], expected(number, frames, name))

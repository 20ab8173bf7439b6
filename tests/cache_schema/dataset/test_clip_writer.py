"""A clip of encoded features on its way into a dataset."""

from pathlib import Path

import numpy as np
import pytest

from cache_schema.dataset.reader import LatentDataset
from cache_schema.dataset.writer import DatasetWriter
from cache_schema.errors import FeatureError
from cache_schema.format.features import FeatureSpec
from cache_schema.format.ledger import ClipInfo
from tests.cache_schema.conftest import values_of

INFO = ClipInfo(name="one", frames=5, split="train")
STEPS = FeatureSpec(
    name="steps",
    shape=(16, 256),
    axes=("query", "channel"),
    dtype="float16",
    role="input",
    encoding="int8-per-channel",
)
HALVES = FeatureSpec(
    name="halves", shape=(2,), axes=("a",), dtype="float32", role="input", encoding="bfloat16"
)


def test_frame_by_frame_equals_all_at_once(tmp_path: Path, manifest, monkeypatch: pytest.MonkeyPatch):
    # Two frames of the values a shard, and all of their scales: the files fill at different times.
    monkeypatch.setattr("cache_schema.format.layout.SHARD_BYTES", 2 * 16 * 256)
    rng = np.random.default_rng(0)
    values = {"steps": rng.normal(size=(5, 16, 256)), "halves": rng.normal(size=(5, 2))}
    promised = manifest.replace(features=(STEPS, HALVES), assets=())
    entries = []
    for step in (1, 3, 5):
        with DatasetWriter(tmp_path / f"{step}.zarr", promised) as writer:
            clip = writer.clip(INFO)
            for begin in range(0, 5, step):
                clip.append({name: array[begin : begin + step] for name, array in values.items()})
            entries.append(clip.commit(wall_s=0))
    assert len({entry.digest for entry in entries}) == 1
    assert {name for name in entries[0].files if not name.endswith("zarr.json")} == {
        *(f"steps/c.{shard}.0.0" for shard in range(3)),
        "steps.scale/c.0.0",
        "halves/c.0.0",
    }
    read = LatentDataset.open(tmp_path / "1.zarr").read("one", "steps")
    assert abs(read - values["steps"]).max() < abs(values["steps"]).max() / 127


@pytest.mark.parametrize(
    ("spec", "value", "kind"),
    [(HALVES, 3.4e38, "bfloat16"), (HALVES, 1e39, "bfloat16"), (STEPS, 7e4, "float16")],
)
def test_what_overflows_when_it_is_encoded_is_refused(tmp_path: Path, manifest, spec, value, kind):
    promised = manifest.replace(features=(spec,), assets=())
    with DatasetWriter(tmp_path / "x.zarr", promised) as writer:
        clip = writer.clip(INFO)
        values = np.zeros((2, *spec.shape))
        values[1, ..., 0] = value
        with pytest.raises(FeatureError, match=f"frame 1: [0-9]+ of [0-9]+ values do not fit {kind}"):
            clip.append({spec.name: values})
        clip.abort()


def test_who_appends_to_a_clip_may_use_the_memory_again(tmp_path: Path, manifest, assets):
    values = values_of("x", 4)
    memory = {name: np.empty_like(array[:1]) for name, array in values.items()}
    with DatasetWriter(tmp_path / "x.zarr", manifest, assets) as writer:
        clip = writer.clip(ClipInfo(name="x", frames=4, split="train"))
        for frame in range(4):
            for name, array in memory.items():
                array[:] = values[name][frame]
            clip.append(memory)
        clip.commit(wall_s=0)
    for name, array in values.items():
        np.testing.assert_array_equal(LatentDataset.open(tmp_path / "x.zarr").read("x", name), array)

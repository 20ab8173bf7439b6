"""What a dataset says of itself before an array is opened."""

import io
import json
import platform
import shutil

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save

from cache_schema.dataset.writer import DatasetWriter
from cache_schema.describe.inspect import Summary, inspect
from cache_schema.format.features import FeatureSpec
from cache_schema.format.ledger import ClipInfo
from cache_schema.format.manifest import AssetSpec
from cache_schema.sharing.reencode import reencode
from cache_schema.sharing.subset import ClipFilter, subset
from cache_schema.storage.atomic_io import sha256_bytes
from tests.cache_schema.conftest import CLIPS, values_of


def test_how_much_there_is(dataset):
    summary = inspect(dataset)
    assert (summary.clips, summary.frames) == (2, 12)
    assert summary.clips_by_split == {"train": 1, "val": 1}
    assert summary.frames_by_split == {"train": 5, "val": 7}
    assert summary.clips_by_tag == {"town": {"Town03": 1, "Town05": 1}}
    assert summary.clip_table is None
    one_frame = 17 * 256 * 2 + 8 * 4 + 1 + 3
    assert summary.logical_bytes == 12 * one_frame
    on_disk = sum(file.stat().st_size for file in (dataset / "clips").glob("*/**/*") if file.is_file())
    assert summary.stored_bytes == on_disk
    assert summary.ratio == summary.logical_bytes / on_disk


def test_no_array_is_opened(dataset):
    before = inspect(dataset)
    for clip in (dataset / "clips").glob("*/"):
        shutil.rmtree(clip)
    assert inspect(dataset) == before


def test_an_encoding_halves_what_is_stored(dataset, tmp_path):
    reencode(dataset, tmp_path / "out.zarr", {"queries": "int8-per-channel"})
    queries = inspect(tmp_path / "out.zarr").features[0]
    assert (queries.name, queries.encoding) == ("queries", "int8-per-channel")
    assert queries.logical_bytes == 12 * 17 * 256 * 2
    values_and_scales = 12 * (17 * 256 + 256 * 4)
    assert values_and_scales < queries.stored_bytes < values_and_scales + 2 * 6000


def test_every_clip_on_demand(dataset):
    table = inspect(dataset, clips=True).clip_table
    assert [(row.name, row.split, row.tags, row.frames, row.wall_s) for row in table] == [
        (info.name, info.split, info.tags, info.frames, 1.5) for info in CLIPS
    ]
    assert sum(row.stored_bytes for row in table) == inspect(dataset).stored_bytes


def test_for_programs(dataset):
    parsed = json.loads(inspect(dataset, clips=True).model_dump_json())
    assert parsed["features"][0]["ratio"] == pytest.approx(1, abs=0.1)
    assert len(parsed["clip_table"]) == 2


def test_vision_tokens_against_full_width(tmp_path, manifest):
    """At the released sizes 15.6 times fewer bytes, less what Zarr needs for itself."""
    segments = (("scene", 256), ("history", 16), ("map", 256))
    queries = FeatureSpec(
        name="scene_queries",
        shape=(528, 256),
        axes=("query", "channel"),
        dtype="float16",
        role="input",
        segments=segments,
    )
    ego = FeatureSpec(name="ego_token", shape=(4096,), axes=("channel",), dtype="float16", role="input")
    heads = save({})
    asset = AssetSpec(name="teacher_heads.safetensors", sha256=sha256_bytes(heads), nbytes=len(heads))
    changed = manifest.replace(features=(queries, ego), assets=(asset,))
    path = tmp_path / "x.zarr"
    with DatasetWriter(path, changed, {asset.name: heads}) as writer:
        clip = writer.clip(ClipInfo(name="clip", frames=20, split="val"))
        for spec in (queries, ego):
            clip.append({spec.name: np.zeros((20, *spec.shape))})
        clip.commit(wall_s=0)
    tokens = inspect(path).derived["vision_tokens"]
    assert tokens.logical_bytes == 20 * 4_333_568
    assert 20 * 278_528 < tokens.stored_bytes < 20 * 278_528 + 5000
    assert tokens.ratio == pytest.approx(15.559, rel=1e-3)


def test_an_empty_dataset(tmp_path, manifest, assets):
    with DatasetWriter(tmp_path / "x.zarr", manifest, assets):
        pass
    summary = inspect(tmp_path / "x.zarr")
    assert (summary.clips, summary.ratio) == (0, None)
    assert isinstance(summary, Summary)


def test_ragged_features_tags_and_derivations(format_2):
    summary = inspect(format_2)
    assert (summary.manifest.format_version, summary.clips, summary.frames) == (2, 3, 10)
    assert summary.clips_by_tag == {
        "city": {"Boston": 1, "Singapore": 1, "unknown": 1},
        "weather": {"rain": 1, "unknown": 2},
    }
    found = {spec.name: spec for spec in summary.features}
    # 14 + 8 units of length: tokens of 4 bytes, images of 20,000; points of 3 float32, stored as bfloat16.
    assert found["tokens"].logical_bytes == 22 * 4
    assert found["image"].logical_bytes == 22 * 20_000
    assert found["points"].logical_bytes == 22 * 3 * 4
    # n (n + 1) / 2 of two layers: 2 * (6 + 1 + 10 + 1 + 15 + 3 + 0 + 21) values of 4 bytes.
    assert found["maps"].logical_bytes == 2 * 57 * 4
    assert found["square"].logical_bytes == 10 * 2 * 9 * 2
    assert (found["tokens"].bytes_per_frame, found["square"].bytes_per_frame) == (None, 36)
    assert found["image"].stored_bytes > 5 * 65_540
    on_disk = sum(file.stat().st_size for file in (format_2 / "clips").glob("*/**/*") if file.is_file())
    assert summary.stored_bytes == on_disk
    assert summary.derived["wide"].logical_bytes == 10 * 9 * 2
    console = Console(width=200, file=io.StringIO())
    console.print(summary)
    shown = console.file.getvalue()
    assert "float16(*, *)" in shown
    assert "float32(2, *, *)" in shown
    assert json.loads(summary.model_dump_json())["features"][0]["shape"] == [None]


def test_a_mix_of_gpu_models_is_shown_and_leaves_the_format_as_it_is(dataset, manifest, assets, tmp_path):
    """An entry has the fields that it always had: a reader of any version takes it."""
    path = tmp_path / "mixed.zarr"
    with DatasetWriter(path, manifest, assets) as writer:
        for info, gpu in zip(CLIPS, ("NVIDIA H100 80GB HBM3", "NVIDIA H200"), strict=True):
            clip = writer.clip(info)
            clip.append(values_of(info.name, info.frames))
            clip.commit(wall_s=1.5, gpu=gpu)
    mixed, plain = inspect(path, clips=True), inspect(dataset)
    assert mixed.clips_by_gpu == {"NVIDIA H100 80GB HBM3": 1, "NVIDIA H200": 1}
    assert [row.gpu for row in mixed.clip_table or ()] == ["NVIDIA H100 80GB HBM3", "NVIDIA H200"]
    assert "computed by 1 NVIDIA H100 80GB HBM3, 1 NVIDIA H200" in shown(mixed)
    assert plain.clips_by_gpu == {"no GPU": 2}
    assert "GPU" not in shown(plain)
    for info in CLIPS:
        new, old = (json.loads((store / f"ledger/{info.name}.json").read_text()) for store in (path, dataset))
        assert {*new} == {*old}
        assert new["digest"] == old["digest"]
        assert old["writer"] == platform.node()
    copied = tmp_path / "copied.zarr"
    reencode(path, copied, {"queries": "int8-per-channel"})
    assert inspect(copied).clips_by_gpu == mixed.clips_by_gpu
    subset(path, tmp_path / "thin.zarr", ClipFilter(), every=2)
    assert inspect(tmp_path / "thin.zarr").clips_by_gpu == mixed.clips_by_gpu


def shown(summary: Summary) -> str:
    console = Console(file=io.StringIO(), width=200, markup=False)
    console.print(summary)
    return console.file.getvalue()

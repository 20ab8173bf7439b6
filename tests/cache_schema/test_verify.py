import json
import random
import shutil
from pathlib import Path

import pytest

from cache_schema.errors import DatasetError
from cache_schema.store import LatentDataset
from cache_schema.verify import verify
from tests.cache_schema.conftest import CLIPS, FEATURES

FIRST = CLIPS[0].name


def flip_a_bit(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position // 8] ^= 1 << position % 8
    path.write_bytes(content)


def test_an_untouched_dataset_is_clean(dataset: Path):
    seen = []
    found = verify(dataset, on_clip=seen.append)
    assert found.problems == ()
    assert (found.clips, found.frames) == (2, 12)
    assert (
        found.nbytes
        == sum(f.stat().st_size for f in (dataset / "clips").rglob("*") if f.is_file())
        - (dataset / "clips" / "zarr.json").stat().st_size
    )
    assert sorted(seen) == [clip.name for clip in CLIPS]


def test_every_flipped_bit_is_found_by_clip_and_feature(dataset: Path):
    choice = random.Random(0)
    files = sorted(f for f in (dataset / "clips" / FIRST).rglob("*") if f.is_file())
    for _ in range(60):
        file = choice.choice(files)
        position = choice.randrange(file.stat().st_size * 8)
        flip_a_bit(file, position)
        feature = file.parent.name if file.parent.name != FIRST else None
        assert (FIRST, feature) in {(p.clip, p.feature) for p in verify(dataset).problems}, (file, position)
        flip_a_bit(file, position)
    assert verify(dataset).problems == ()


def test_no_reader_returns_a_changed_value(dataset: Path):
    choice = random.Random(1)
    for spec in FEATURES:
        for file in (dataset / "clips" / FIRST / spec.name).glob("c*"):
            for _ in range(10):
                position = choice.randrange(file.stat().st_size * 8)
                flip_a_bit(file, position)
                with pytest.raises(DatasetError, match=f"clip '{FIRST}', feature '{spec.name}'"):
                    LatentDataset.open(dataset).read(FIRST, spec.name)
                flip_a_bit(file, position)


def test_a_deleted_shard_is_found_and_never_read_as_fill(dataset: Path):
    (dataset / "clips" / FIRST / "command" / "c.0").unlink()
    with pytest.raises(DatasetError, match="is missing"):
        LatentDataset.open(dataset).read(FIRST, "command")
    assert [(p.clip, p.feature, p.what) for p in verify(dataset, quick=True).problems] == [
        (FIRST, "command", "command/c.0 is missing")
    ]


def test_a_truncated_shard_is_found(dataset: Path):
    file = dataset / "clips" / FIRST / "queries" / "c.0.0.0"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DatasetError, match="another size"):
        LatentDataset.open(dataset).read(FIRST, "queries", 0)
    assert "bytes instead of" in verify(dataset, quick=True).problems[0].what


def test_a_deleted_ledger_entry_is_found(dataset: Path):
    (dataset / "ledger" / f"{FIRST}.json").unlink()
    assert [p.clip for p in verify(dataset).problems] == [FIRST]


def test_a_renamed_clip_is_found(dataset: Path):
    (dataset / "clips" / FIRST).rename(dataset / "clips" / "Other_Town01_Route1_Weather0")
    clips = {p.clip for p in verify(dataset).problems}
    assert clips == {FIRST, "Other_Town01_Route1_Weather0"}


def test_a_file_that_nobody_wrote_is_found(dataset: Path):
    (dataset / "clips" / FIRST / "token" / "c.9").write_bytes(b"?")
    problem = ("token", "token/c.9 is not in the ledger")
    assert [(p.feature, p.what) for p in verify(dataset).problems] == [problem]


@pytest.mark.parametrize("change", [{"frames": 6}, {"split": "val"}, {"name": "Elsewhere"}])
def test_a_ledger_that_lies_is_found(dataset: Path, change: dict):
    path = dataset / "ledger" / f"{FIRST}.json"
    entry = json.loads(path.read_bytes())
    entry["clip"] |= change
    path.write_text(json.dumps(entry))
    assert "contradicts itself" in verify(dataset).problems[0].what
    with pytest.raises(DatasetError, match="contradicts itself"):
        LatentDataset.open(dataset).clip(FIRST)


def test_a_changed_asset_is_found(dataset: Path):
    flip_a_bit(dataset / "assets" / "heads.safetensors", 700)
    assert "is not the file that the manifest names" in verify(dataset).problems[0].what


def test_a_manifest_that_promises_something_else_is_found(dataset: Path):
    path = dataset / "zarr.json"
    root = json.loads(path.read_bytes())
    root["attributes"]["teachonce"]["features"][1]["shape"] = [9]
    path.write_text(json.dumps(root))
    assert {p.feature for p in verify(dataset).problems} == {"token"}
    with pytest.raises(DatasetError, match=r"float32\(5, 9\), as the manifest promises"):
        LatentDataset.open(dataset).read(FIRST, "token")


def test_another_format_version_is_refused(dataset: Path):
    path = dataset / "zarr.json"
    root = json.loads(path.read_bytes())
    root["attributes"]["teachonce"]["format_version"] = 2
    path.write_text(json.dumps(root))
    with pytest.raises(DatasetError, match="format version 2"):
        verify(dataset)


def test_no_dataset_is_a_clear_error(dataset: Path, tmp_path: Path):
    with pytest.raises(DatasetError, match="no latent dataset"):
        verify(tmp_path / "nowhere.zarr")
    shutil.copytree(dataset / "clips", tmp_path / "other.zarr")
    with pytest.raises(DatasetError, match="not the root of a latent dataset"):
        verify(tmp_path / "other.zarr")

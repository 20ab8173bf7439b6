import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cache_schema.dataset.reader import LatentDataset
from cache_schema.dataset.writer import DatasetWriter
from cache_schema.errors import DatasetError, FeatureError, IdentityError
from cache_schema.format.ledger import ClipInfo, Ledger
from cache_schema.integrity.verify import verify
from cache_schema.storage.atomic_io import write_durably
from tests.cache_schema.conftest import CLIPS, values_of
from tests.paths import ROOT

INFO = ClipInfo(name="New_Town01_Route3_Weather1", frames=4, split="train")


def test_what_is_written_is_read(dataset: Path):
    opened = LatentDataset.open(dataset)
    assert opened.clips == tuple(clip.name for clip in CLIPS)
    for info in CLIPS:
        assert opened.clip(info.name) == info
        for name, values in values_of(info.name, info.frames).items():
            stored = opened.read(info.name, name)
            assert stored.dtype == values.dtype
            np.testing.assert_array_equal(stored, values)
            np.testing.assert_array_equal(opened.read(info.name, name, 2), values[2])
            np.testing.assert_array_equal(opened.read(info.name, name, slice(1, 4)), values[1:4])
            np.testing.assert_array_equal(opened.read(info.name, name, np.array([3, 0])), values[[3, 0]])


def test_frame_by_frame_equals_all_at_once(tmp_path: Path, manifest, assets):
    digests = []
    for step in (1, 3, 4):
        with DatasetWriter(tmp_path / f"{step}.zarr", manifest, assets) as writer:
            clip = writer.clip(INFO)
            values = values_of(INFO.name, 4)
            for begin in range(0, 4, step):
                clip.append({name: array[begin : begin + step] for name, array in values.items()})
            digests.append(clip.commit(wall_s=step).digest)
    assert len(set(digests)) == 1


def test_a_long_clip_is_cut_into_shards(tmp_path: Path, manifest, assets, monkeypatch):
    monkeypatch.setattr("cache_schema.format.layout.SHARD_BYTES", 2 * 17 * 256 * 2)
    with DatasetWriter(tmp_path / "x.zarr", manifest, assets) as writer:
        info = INFO.model_copy(update={"frames": 5})
        clip = writer.clip(info)
        clip.append(values_of(INFO.name, 5))
        files = clip.commit(wall_s=0).files
    assert {f"queries/c.{shard}.0.0" for shard in range(3)} <= set(files)
    stored = LatentDataset.open(tmp_path / "x.zarr").read(INFO.name, "queries")
    np.testing.assert_array_equal(stored, values_of(INFO.name, 5)["queries"])


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("token", np.full((1, 8), np.nan, np.float32), "'token', frame 1: 8 of 8 values"),
        ("queries", np.full((1, 17, 256), 1e6, np.float32), "'queries', frame 1: 4352 of 4352 values"),
        ("command", np.array([300]), "'command', frame 1: 1 of 1 values"),
        ("token", np.zeros((1, 9), np.float32), r"shape \(1, 9\)"),
        ("token", np.zeros((4, 8), np.float32), r"shape \(4, 8\)"),
        ("colour", np.zeros((1,)), "'colour' was never promised"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_name(dataset, manifest, assets, name, values, message):
    with DatasetWriter(dataset, manifest, assets) as writer:
        clip = writer.clip(INFO)
        clip.append({key: array[:1] for key, array in values_of(INFO.name, 4).items()})
        with pytest.raises(FeatureError, match=message):
            clip.append({name: values})
        clip.abort()
    assert verify(dataset).problems == ()
    assert INFO.name not in LatentDataset.open(dataset).clips


def test_a_short_clip_is_not_committed(dataset, manifest, assets):
    with DatasetWriter(dataset, manifest, assets) as writer:
        clip = writer.clip(INFO)
        clip.append({key: array[:3] for key, array in values_of(INFO.name, 4).items()})
        with pytest.raises(FeatureError, match="expected: 4 frames"):
            clip.commit(wall_s=0)
    assert INFO.name not in LatentDataset.open(dataset).clips


def test_another_teacher_is_refused_and_both_are_shown(dataset, manifest, assets):
    other = manifest.replace(teacher=manifest.teacher.model_copy(update={"weights": "sha256:beef"}))
    with (
        pytest.raises(IdentityError, match=r"teacher\.weights: 'random:0' there, 'sha256:beef' now"),
        DatasetWriter(dataset, other, assets),
    ):
        pass


def test_newer_libraries_may_go_on(dataset, manifest, assets):
    code = manifest.code.model_copy(update={"libraries": {"torch": "99"}})
    with DatasetWriter(dataset, manifest.replace(code=code), assets) as writer:
        assert writer.committed() == tuple(clip.name for clip in CLIPS)


def test_one_writer_at_a_time(dataset, manifest, assets):
    with (
        DatasetWriter(dataset, manifest, assets),
        pytest.raises(DatasetError, match=f"process {os.getpid()}"),
        DatasetWriter(dataset, manifest, assets),
    ):
        pass
    with DatasetWriter(dataset, manifest, assets):
        pass  # the lock is free again


def test_a_clip_without_ledger_entry_is_removed(dataset, manifest, assets):
    (dataset / "ledger" / f"{CLIPS[0].name}.json").unlink()
    assert LatentDataset.open(dataset).clips == (CLIPS[1].name,)
    with DatasetWriter(dataset, manifest, assets):
        assert not (dataset / "clips" / CLIPS[0].name).exists()
    assert verify(dataset).problems == ()


@pytest.mark.parametrize("name", ["../outside", "a/b", ".hidden", ""])
def test_a_clip_name_cannot_leave_the_dataset(name):
    with pytest.raises(ValueError, match="name"):
        ClipInfo(name=name, frames=1, split="train")


WRITE_FOR_EVER = """
import itertools, sys
from pathlib import Path
from cache_schema.format.ledger import ClipInfo
from cache_schema.format.manifest import Manifest
from cache_schema.dataset.writer import DatasetWriter
from tests.cache_schema.conftest import values_of

path, manifest = Path(sys.argv[1]), Manifest.model_validate_json(sys.argv[2])
manifest = manifest.replace(assets=())
with DatasetWriter(path, manifest) as writer:
    begun = len(writer.committed())
    for number in itertools.count(begun):
        info = ClipInfo(name=f"Clip_Town01_Route{number}_Weather0", frames=6, split="train")
        clip = writer.clip(info)
        clip.append(values_of(info.name, 6))
        clip.commit(wall_s=0)
        if number == begun:
            print("one is there", flush=True)
"""


def test_sigkill_at_any_moment_leaves_whole_clips_only(tmp_path: Path, manifest):
    path = tmp_path / "killed.zarr"
    manifest = manifest.replace(assets=())
    moments = random.Random(0)
    for _ in range(4):
        command = [sys.executable, "-c", WRITE_FOR_EVER, str(path), manifest.model_dump_json()]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"one is there\n"
            time.sleep(moments.uniform(0, 0.2))
            process.send_signal(signal.SIGKILL)
        opened = LatentDataset.open(path)
        for name in opened.clips:
            np.testing.assert_array_equal(opened.read(name, "queries"), values_of(name, 6)["queries"])
    assert len(opened.clips) > 3
    with DatasetWriter(path, manifest):
        pass
    assert verify(path).problems == ()
    # A clip written by a run that survived is the same clip.
    fresh = tmp_path / "fresh.zarr"
    with DatasetWriter(fresh, manifest) as writer:
        info = opened.clip(opened.clips[-1])
        clip = writer.clip(info)
        clip.append(values_of(info.name, 6))
        assert clip.commit(wall_s=0).digest == Ledger(path).read(info.name).digest


FILL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
exec(sys.argv.pop(1))
"""


def test_a_disk_that_refuses_is_a_clear_error(tmp_path: Path, manifest):
    """The kernel really refuses to write beyond a limit, as a full disk does."""
    path = tmp_path / "full.zarr"
    command = [sys.executable, "-c", FILL, WRITE_FOR_EVER, str(path), manifest.model_dump_json()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert f"the disk under {path} refuses" in done.stderr
    assert "committed clips are safe" in done.stderr
    assert LatentDataset.open(path).clips == ()


def test_a_folder_of_other_files_is_left_alone(tmp_path: Path, manifest, assets):
    foreign = tmp_path / "clips" / "my_recordings" / "x.txt"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("mine")
    with (
        pytest.raises(DatasetError, match="is no latent dataset, but it is not empty"),
        DatasetWriter(tmp_path, manifest, assets),
    ):
        pass
    assert foreign.read_text() == "mine"


def test_a_dataset_that_lost_its_root_keeps_its_clips(dataset, manifest, assets):
    root = (dataset / "zarr.json").read_bytes()
    (dataset / "zarr.json").unlink()
    with pytest.raises(DatasetError, match="copy that file again"), DatasetWriter(dataset, manifest, assets):
        pass
    (dataset / "zarr.json").write_bytes(root)
    assert verify(dataset).problems == ()


def test_a_run_killed_before_the_root_was_written_can_begin_again(tmp_path: Path, manifest, assets):
    path = tmp_path / "x.zarr"
    with DatasetWriter(path, manifest, assets):
        pass
    (path / "zarr.json").unlink()
    (path / ".zarr.json.99.tmp").write_text("{")
    with DatasetWriter(path, manifest, assets):
        pass
    assert not (path / ".zarr.json.99.tmp").exists()
    assert verify(path).problems == ()


def test_of_two_who_make_the_same_clip_the_first_wins(dataset, manifest, assets):
    with DatasetWriter(dataset, manifest, assets) as writer:
        first = writer.clip(INFO)
        first.append(values_of(INFO.name, 4))
        entry = first.commit(wall_s=1)
        second = writer.clip(INFO)
        second.append({name: np.zeros_like(array) for name, array in values_of(INFO.name, 4).items()})
        assert second.commit(wall_s=2) == entry
    assert verify(dataset).problems == ()
    stored = LatentDataset.open(dataset).read(INFO.name, "queries")
    np.testing.assert_array_equal(stored, values_of(INFO.name, 4)["queries"])


def test_features_and_data_that_differ_are_shown_by_name(dataset, manifest, assets):
    token = manifest.features[1].model_copy(update={"unit": "m"})
    features = (manifest.features[0], token, *manifest.features[2:])
    other = manifest.replace(features=features)
    with (
        pytest.raises(IdentityError, match=r"features\.token\.unit: '1' there, 'm' now"),
        DatasetWriter(dataset, other, assets),
    ):
        pass


@pytest.mark.parametrize("name", ["clips", "ledger"])
def test_a_dataset_that_lost_a_folder_keeps_its_clips(dataset, manifest, assets, name):
    """Without the ledger every clip would look like what a killed run has left."""
    (dataset / name).rename(dataset.parent / "lost")
    with pytest.raises(DatasetError, match=f"{name} is missing"), DatasetWriter(dataset, manifest, assets):
        pass
    (dataset.parent / "lost").rename(dataset / name)
    assert verify(dataset).problems == ()


def test_a_link_in_place_of_a_clip_is_cleared_and_what_it_leads_to_is_not(
    dataset, manifest, assets, tmp_path
):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("mine")
    (dataset / "clips" / "Elsewhere").symlink_to(mine)
    with DatasetWriter(dataset, manifest, assets):
        assert not (dataset / "clips" / "Elsewhere").is_symlink()
    assert (mine / "letter.txt").read_text() == "mine"


def test_nothing_is_written_through_a_link_that_lies_in_wait(tmp_path: Path):
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (tmp_path / f".zarr.json.{os.getpid()}.tmp").symlink_to(mine)
    write_durably(tmp_path / "zarr.json", b"{}")
    assert mine.read_text() == "mine"
    assert (tmp_path / "zarr.json").read_bytes() == b"{}"
    assert not (tmp_path / "zarr.json").is_symlink()


def test_everything_is_on_the_disk_before_the_root_names_it(tmp_path, manifest, assets, monkeypatch):
    """The folder's own name in its parent, too: a power cut takes what is only in memory."""
    synced = []
    fsync = os.fsync

    def record(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    path = tmp_path / "new" / "x.zarr"
    with DatasetWriter(path, manifest, assets):
        pass
    *before, last = synced
    assert last == path
    folders = {tmp_path, path.parent, path / "clips", path / "assets"}
    assert folders <= {*before}
    written = {file.name.removeprefix(".").rsplit(".", 2)[0] for file in before if file.suffix == ".tmp"}
    assert written == {"heads.safetensors", "zarr.json"}
    assert any(file.parent == path / "clips" for file in before)

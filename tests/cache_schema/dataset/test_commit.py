"""A commit finds what was promised, or it is none: writers outlive their runs, and folders are replaced."""

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cache_schema.dataset.add_features import extend_clip, extend_manifest
from cache_schema.dataset.clip_writer import ClipWriter
from cache_schema.dataset.copy_clips import copy_clip
from cache_schema.dataset.reader import LatentDataset
from cache_schema.dataset.writer import DatasetWriter, establish
from cache_schema.errors import DatasetError
from cache_schema.format.ledger import ClipInfo
from cache_schema.integrity.repair import repair
from cache_schema.integrity.verify import verify
from cache_schema.storage.atomic_io import write_durably
from tests.cache_schema.conftest import CLIPS, values_of
from tests.cache_schema.dataset.test_add_features import SPEED
from tests.cache_schema.tampering import flip_a_bit
from tests.paths import ROOT
from tests.recorded_progress import RecordedProgress

INFO = ClipInfo(name="New_Town01_Route3_Weather1", frames=4, split="train")
OTHERS = tuple(clip.name for clip in CLIPS)


def written(writer: ClipWriter) -> ClipWriter:
    writer.append(values_of(writer.info.name, writer.info.frames))
    return writer


def partial(path: Path) -> Path:
    (folder,) = (path / ".partial").glob(f"*/{INFO.name}")
    return folder


def remove_a_file(folder: Path) -> None:
    (folder / "zarr.json").unlink()


def remove_an_array(folder: Path) -> None:
    shutil.rmtree(folder / "token")


def lengthen_a_file(folder: Path) -> None:
    with (folder / "zarr.json").open("ab") as file:
        file.write(b"\n")


def change_a_byte(folder: Path) -> None:
    flip_a_bit(folder / "zarr.json", 20)


def add_a_file(folder: Path) -> None:
    (folder / "token" / "c.9").write_bytes(b"?")


@pytest.mark.parametrize(
    "change", [remove_a_file, remove_an_array, lengthen_a_file, change_a_byte, add_a_file]
)
def test_a_clip_that_is_not_as_it_was_written_is_no_clip(dataset, manifest, assets, change):
    with DatasetWriter(dataset, manifest, assets) as writer:
        clip = written(writer.clip(INFO))
        change(partial(dataset))
        with pytest.raises(DatasetError, match=r"removed or changed|is gone"):
            clip.commit(wall_s=0)
        clip.abort()
    assert LatentDataset.open(dataset).clips == OTHERS
    assert verify(dataset).problems == ()


def test_what_a_file_browser_leaves_in_a_growing_clip_is_no_change(dataset, manifest, assets):
    with DatasetWriter(dataset, manifest, assets) as writer:
        clip = written(writer.clip(INFO))
        (partial(dataset) / ".DS_Store").write_bytes(b"?")
        assert not any(".DS_Store" in name for name in clip.commit(wall_s=0).files)
    assert verify(dataset).problems == ()


ORPHAN = """
import sys
from pathlib import Path
from cache_schema.dataset.clip_writer import ClipWriter
from cache_schema.dataset.reader import read_manifest
from tests.cache_schema.dataset.test_commit import INFO, written

path = Path(sys.argv[1])
clip = written(ClipWriter(path, read_manifest(path), INFO))
print("written", flush=True)
sys.stdin.readline()
print(clip.commit(wall_s=0).clip.name, flush=True)
"""


def orphan(path: Path) -> subprocess.Popen:
    """A worker of a cluster whose run is dead: it has written a clip, and commits it when it is told to."""
    process = subprocess.Popen(
        [sys.executable, "-c", ORPHAN, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    return process


def test_a_clip_in_the_hands_of_a_living_writer_is_not_cleared(dataset, manifest, assets):
    with orphan(dataset) as process:
        with DatasetWriter(dataset, manifest, assets):
            assert partial(dataset).is_dir()
        repair(dataset)
        assert process.communicate("go\n", timeout=60)[0] == f"{INFO.name}\n"
    stored = LatentDataset.open(dataset).read(INFO.name, "queries")
    np.testing.assert_array_equal(stored, values_of(INFO.name, 4)["queries"])
    assert verify(dataset).problems == ()


def test_a_clip_of_a_dead_writer_is_cleared(dataset, manifest, assets):
    with orphan(dataset) as process:
        process.kill()
    assert partial(dataset).is_dir()
    with DatasetWriter(dataset, manifest, assets):
        pass
    assert not (dataset / ".partial").exists()


def test_a_living_writer_that_comes_second_leaves_nothing(dataset, manifest, assets):
    with orphan(dataset) as process:
        with DatasetWriter(dataset, manifest, assets) as writer:
            entry = written(writer.clip(INFO)).commit(wall_s=1)
        assert process.communicate("go\n", timeout=60)[0] == f"{INFO.name}\n"
    assert LatentDataset.open(dataset).entry(INFO.name) == entry
    assert verify(dataset).problems == ()
    assert not list((dataset / ".partial").glob("*"))


def another(manifest):
    return manifest.replace(teacher=manifest.teacher.model_copy(update={"weights": "random:1"}))


def test_an_orphan_adds_nothing_to_what_another_teacher_made_since(dataset, manifest, assets):
    with orphan(dataset) as process:
        # In the place of the dataset comes another one, and whatever is being written stays where it was.
        (dataset / "zarr.json").unlink()
        for folder in ("clips", "ledger"):
            shutil.rmtree(dataset / folder)
        establish(dataset, another(manifest), assets)
        _, err = process.communicate("go\n", timeout=60)
    assert "was replaced while clip" in err
    assert "teacher.weights: 'random:1' there, 'random:0' here" in err
    assert LatentDataset.open(dataset).clips == ()
    assert verify(dataset).problems == ()


def replace_folder(path: Path, manifest, assets) -> None:
    """Move a dataset away, and make another one in its place."""
    path.rename(path.with_name("away.zarr"))
    with DatasetWriter(path, manifest, assets) as writer:
        written(writer.clip(CLIPS[0])).commit(wall_s=0)


@pytest.mark.parametrize("partial_comes_along", [False, True])
def test_a_run_adds_nothing_to_a_folder_that_it_does_not_hold(
    dataset, manifest, assets, partial_comes_along: bool
):
    with DatasetWriter(dataset, manifest, assets) as writer:
        clip = written(writer.clip(INFO))
        replace_folder(dataset, manifest, assets)
        if partial_comes_along:
            shutil.copytree(dataset.with_name("away.zarr") / ".partial", dataset / ".partial")
        with pytest.raises(DatasetError, match=r"is gone|was deleted, moved or replaced"):
            clip.commit(wall_s=0)
    assert LatentDataset.open(dataset).clips == (CLIPS[0].name,)
    assert verify(dataset).problems == ()


def test_a_copy_stops_where_its_target_was_replaced(dataset, manifest, assets, tmp_path):
    source = LatentDataset.open(dataset)
    target = tmp_path / "target.zarr"
    with DatasetWriter(target, manifest, assets):
        replace_folder(target, another(manifest), assets)
        with pytest.raises(DatasetError, match="was deleted, moved or replaced"):
            copy_clip(source.backend, source.entry(CLIPS[1].name), target, source.manifest)
    assert LatentDataset.open(target).clips == (CLIPS[0].name,)
    assert verify(target).problems == ()


def test_features_are_not_promised_in_a_folder_that_was_replaced(dataset, manifest, assets):
    with DatasetWriter(dataset):
        replace_folder(dataset, another(manifest), assets)
        with pytest.raises(DatasetError, match="was deleted, moved or replaced"):
            extend_manifest(dataset, manifest, (SPEED,))
    assert LatentDataset.open(dataset).manifest == another(manifest)


def test_features_are_not_promised_where_a_clip_was_added_meanwhile(dataset, manifest, assets):
    opened = LatentDataset.open(dataset)
    with DatasetWriter(dataset):
        for clip in opened.clips:
            entry = opened.entry(clip)
            extend_clip(dataset, manifest, entry, (SPEED,), {"speed": np.zeros(entry.clip.frames)})
        written(ClipWriter(dataset, manifest, INFO)).commit(wall_s=0)
        with pytest.raises(DatasetError, match="1 clips lack them"):
            extend_manifest(dataset, manifest, (SPEED,))
    assert verify(dataset).problems == ()


def test_an_orphan_adds_no_clip_that_lacks_features_promised_since(dataset, manifest):
    with orphan(dataset) as process:
        with DatasetWriter(dataset):
            for name in OTHERS:
                entry = LatentDataset.open(dataset).entry(name)
                extend_clip(dataset, manifest, entry, (SPEED,), {"speed": np.zeros(entry.clip.frames)})
            extend_manifest(dataset, manifest, (SPEED,))
        assert "features.speed" in process.communicate("go\n", timeout=60)[1]
    assert LatentDataset.open(dataset).clips == OTHERS
    assert verify(dataset).problems == ()


def test_a_repair_sets_nothing_aside_in_a_folder_that_was_replaced(dataset, manifest, assets):
    flip_a_bit(dataset / "clips" / CLIPS[0].name / "queries" / "c.0.0.0", 1000)

    class Replacing(RecordedProgress):
        def expect(self, total):
            replace_folder(dataset, manifest, assets)

    with pytest.raises(DatasetError, match="was deleted, moved or replaced"):
        repair(dataset, progress=Replacing())
    assert LatentDataset.open(dataset).clips == (CLIPS[0].name,)
    assert verify(dataset).problems == ()


def test_two_machines_whose_locks_are_not_shared_tear_no_clip(dataset, manifest, assets, monkeypatch):
    """As on NFS that is mounted with local locks: each machine believes that it is alone."""
    monkeypatch.setattr(fcntl, "flock", lambda file, how: None)
    with DatasetWriter(dataset, manifest, assets) as mine:
        clip = written(mine.clip(INFO))
        with DatasetWriter(dataset, manifest, assets) as other:
            with pytest.raises(DatasetError, match="is gone"):
                clip.commit(wall_s=0)
            entry = written(other.clip(INFO)).commit(wall_s=0)
            assert written(mine.clip(INFO)).commit(wall_s=1) == entry
    assert verify(dataset).problems == ()


def test_two_writers_of_one_name_at_a_time_write_no_mixture(tmp_path: Path, monkeypatch):
    """Process numbers are equal on two machines now and then, in containers always."""
    monkeypatch.setattr("os.getpid", lambda: 1)
    names = set()
    rename = Path.replace

    def remember(self, target):
        names.add(self.name)
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", remember)
    for content in (b"1", b"2"):
        write_durably(tmp_path / "zarr.json", content)
    assert len(names) == 2

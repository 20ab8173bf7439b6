import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cache_schema.dataset.reader import LatentDataset
from cache_schema.dataset.writer import DatasetWriter
from cache_schema.errors import DatasetError
from cache_schema.format.ledger import Ledger
from cache_schema.integrity.repair import repair
from cache_schema.integrity.verify import verify
from tests.cache_schema import format_2 as format_2_clips
from tests.cache_schema.conftest import CLIPS, values_of
from tests.cache_schema.tampering import flip_a_bit
from tests.paths import ROOT

FIRST, SECOND = (clip.name for clip in CLIPS)


def flip_a_value(path: Path) -> None:
    flip_a_bit(path / "clips" / FIRST / "queries" / "c.0.0.0", 1000)


def delete_a_shard(path: Path) -> None:
    (path / "clips" / FIRST / "queries" / "c.0.0.0").unlink()


def damage_the_entry(path: Path) -> None:
    flip_a_bit(path / "ledger" / f"{FIRST}.json", 500)


def lose_the_folder(path: Path) -> None:
    (path / "clips" / FIRST).rename(path.parent / "lost")


def leave_a_link(path: Path) -> None:
    lose_the_folder(path)
    (path / "clips" / FIRST).symlink_to(path.parent / "lost")


def add_a_file(path: Path) -> None:
    (path / "clips" / FIRST / "token" / "c.9").write_bytes(b"?")


@pytest.mark.parametrize(
    "damage", [flip_a_value, delete_a_shard, damage_the_entry, lose_the_folder, leave_a_link, add_a_file]
)
def test_exactly_the_bad_clip_is_set_aside_and_can_be_made_again(dataset, manifest, assets, damage):
    digests = {clip.name: Ledger(dataset).read(clip.name).digest for clip in CLIPS}
    damage(dataset)
    entry = (dataset / "ledger" / f"{FIRST}.json").read_bytes()
    report = repair(dataset)
    assert (report.quarantined, report.cleared, report.left) == ((FIRST,), (), ())
    assert {problem.clip for problem in report.verification.problems} == {FIRST}
    assert (dataset / ".quarantine" / FIRST / "entry.json").read_bytes() == entry
    assert LatentDataset.open(dataset).clips == (SECOND,)
    assert verify(dataset).problems == ()
    with DatasetWriter(dataset, manifest, assets) as writer:
        assert writer.committed() == (SECOND,)
        clip = writer.clip(CLIPS[0])
        clip.append(values_of(FIRST, CLIPS[0].frames))
        clip.commit(wall_s=0)
    assert {clip.name: Ledger(dataset).read(clip.name).digest for clip in CLIPS} == digests
    assert verify(dataset).problems == ()


def test_what_was_set_aside_stays(dataset: Path):
    whole = (dataset / "clips" / FIRST / "token" / "c.0.0").read_bytes()
    flip_a_value(dataset)
    repair(dataset)
    assert (dataset / ".quarantine" / FIRST / "clip" / "token" / "c.0.0").read_bytes() == whole


def test_a_clip_that_is_bad_again_does_not_displace_the_first(dataset, manifest, assets):
    for names in ({FIRST}, {FIRST, f"{FIRST}.2"}):
        flip_a_value(dataset)
        repair(dataset)
        assert {place.name for place in (dataset / ".quarantine").iterdir()} == names
        with DatasetWriter(dataset, manifest, assets) as writer:
            clip = writer.clip(CLIPS[0])
            clip.append(values_of(FIRST, CLIPS[0].frames))
            clip.commit(wall_s=0)


def test_a_dry_run_changes_nothing(dataset: Path):
    flip_a_value(dataset)
    (dataset / "ledger" / f"{SECOND}.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}
    report = repair(dataset, dry_run=True)
    assert (report.quarantined, report.cleared) == ((FIRST,), (SECOND,))
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*")} == before


def test_remains_of_killed_runs_are_cleared(dataset: Path):
    (dataset / "ledger" / f"{FIRST}.json").unlink()
    half = dataset / ".partial" / "laptop-1" / "Half_Town01_Route1_Weather0"
    half.mkdir(parents=True)
    (half.parent / SECOND).mkdir()  # which was to get more features
    report = repair(dataset)
    assert (report.quarantined, report.cleared, report.left) == ((), (FIRST, half.name), ())
    assert not half.exists()
    assert not (dataset / "clips" / FIRST).exists()
    assert verify(dataset).problems == ()


def test_a_whole_dataset_is_left_alone(dataset: Path):
    before = {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file()}
    report = repair(dataset)
    assert (report.quarantined, report.cleared, report.left) == ((), (), ())
    after = {path: path.read_bytes() for path in dataset.rglob("*") if path.is_file()}
    assert {path: content for path, content in after.items() if path in before} == before
    assert not (dataset / ".quarantine").exists()


def test_what_concerns_the_whole_dataset_is_reported_and_left(dataset: Path):
    flip_a_bit(dataset / "assets" / "heads.safetensors", 700)
    report = repair(dataset)
    assert report.quarantined == ()
    assert [problem.what for problem in report.left] == [
        "assets/heads.safetensors is not the file that the manifest names"
    ]
    assert len(LatentDataset.open(dataset).clips) == 2


def test_a_manifest_that_cannot_be_read_stops_it(dataset: Path):
    flip_a_value(dataset)
    flip_a_bit(dataset / "zarr.json", 3000)
    with pytest.raises(DatasetError, match=r"zarr\.json"):
        repair(dataset)
    assert (dataset / "clips" / FIRST).is_dir()


def test_no_repair_while_another_run_writes(dataset, manifest, assets):
    flip_a_value(dataset)
    with (
        DatasetWriter(dataset, manifest, assets),
        pytest.raises(DatasetError, match="is being written by another run"),
    ):
        repair(dataset)


@pytest.mark.parametrize("name", ["clips", "ledger", ".partial", ".quarantine", ".lock", ".commit"])
def test_nothing_outside_is_touched_through_a_link(dataset: Path, tmp_path: Path, name: str):
    """Clearing remains behind a link in an untrusted dataset would empty another folder."""
    mine = tmp_path / "mine"
    (mine / "letters").mkdir(parents=True)
    (mine / "letters" / "a.txt").write_text("mine")
    target = mine / "letters" / "a.txt" if name in (".lock", ".commit") else mine
    there = dataset / name
    if there.is_dir():
        there.rename(tmp_path / "before")
    there.unlink(missing_ok=True)
    there.symlink_to(target)
    flip = dataset / "clips" / FIRST / "queries" / "c.0.0.0"
    if flip.exists():
        flip_a_bit(flip, 1000)
    with pytest.raises(DatasetError):
        repair(dataset)
    assert [path.name for path in mine.rglob("*")] == ["letters", "a.txt"]
    assert (mine / "letters" / "a.txt").read_text() == "mine"


def test_a_killed_repair_is_run_again(dataset, manifest, assets):
    """Killed at any moment: no clip is there in halves, and the second repair finishes the first."""
    code = (
        "import sys, pathlib; from cache_schema.integrity.repair import repair; "
        "print('go', flush=True); repair(pathlib.Path(sys.argv[1]))"
    )
    for delay in (0.0, 0.015, 0.04):
        for clip in CLIPS:
            if (dataset / "ledger" / f"{clip.name}.json").exists():
                flip_a_bit(dataset / "clips" / clip.name / "queries" / "c.0.0.0", 1000)
        with subprocess.Popen(
            [sys.executable, "-c", code, str(dataset)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(delay)
            process.kill()
        repair(dataset)
        assert verify(dataset).problems == ()
        assert LatentDataset.open(dataset).clips == ()
        with DatasetWriter(dataset, manifest, assets) as writer:
            for info in CLIPS:
                clip = writer.clip(info)
                clip.append(values_of(info.name, info.frames))
                clip.commit(wall_s=0)
    for info in CLIPS:
        stored = LatentDataset.open(dataset).read(info.name, "queries")
        np.testing.assert_array_equal(stored, values_of(info.name, info.frames)["queries"])


def test_a_damaged_clip_of_format_2_can_be_made_again(format_2: Path):
    name = format_2_clips.CLIPS[0].name
    digest = Ledger(format_2).read(name).digest
    flip_a_bit(format_2 / "clips" / name / "maps.shape" / "c.0.0", 40)
    report = repair(format_2)
    assert (report.quarantined, report.left) == ((name,), ())
    assert {(problem.clip, problem.feature) for problem in report.verification.problems} == {(name, "maps")}
    with DatasetWriter(format_2, format_2_clips.manifest_of()) as writer:
        clip = writer.clip(format_2_clips.CLIPS[0])
        clip.append(format_2_clips.values_of(name))
        assert clip.commit(wall_s=0).digest == digest
    assert verify(format_2).problems == ()


STRAY = (".DS_Store", "._zarr.json", "Thumbs.db", "desktop.ini", ".nfs0000000000a1b2", ".fuse_hidden0001")
FOLDERS = ("", "clips", "ledger", "assets", f"clips/{FIRST}", f"clips/{FIRST}/token")


def test_what_operating_systems_leave_costs_no_clip(dataset, manifest, assets):
    left = [dataset / folder / name for folder in FOLDERS for name in STRAY]
    left += [dataset / folder / "lost+found" / "mine" for folder in FOLDERS]
    for file in left:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"x")
    found = verify(dataset)
    assert found.problems == ()
    noted = {note.what.split(" ")[0] for note in found.notes}
    assert noted == {*STRAY, "lost+found", *(f"token/{name}" for name in (*STRAY, "lost+found"))}
    report = repair(dataset)
    assert (report.quarantined, report.cleared, report.left) == ((), (), ())
    with DatasetWriter(dataset, manifest, assets) as writer:
        assert writer.committed() == (FIRST, SECOND)
    assert all(file.read_bytes() == b"x" for file in left)
    opened = LatentDataset.open(dataset)
    np.testing.assert_array_equal(opened.read(FIRST, "queries"), values_of(FIRST, 5)["queries"])


def test_foreign_files_are_named_and_cost_no_clip(dataset: Path):
    for name in ("notes.txt", "token/notes.txt"):
        (dataset / "clips" / FIRST / name).write_text("mine")
    (dataset / "clips" / FIRST / "loop").symlink_to(dataset)
    report = repair(dataset)
    assert report.quarantined == ()
    assert [problem.what.split(" ")[0] for problem in report.left] == ["loop", "notes.txt", "token/notes.txt"]
    assert LatentDataset.open(dataset).clips == (FIRST, SECOND)
    # A clip is judged by its own files all the same.
    flip_a_value(dataset)
    assert repair(dataset).quarantined == (FIRST,)


@pytest.mark.parametrize("content", [b"", b"{}", None], ids=["empty", "another", "missing"])
def test_the_group_of_clips_is_written_again(dataset, manifest, assets, content):
    group = dataset / "clips" / "zarr.json"
    whole = group.read_bytes()

    def damage() -> None:
        group.unlink()
        if content is not None:
            group.write_bytes(content)

    damage()
    dry = repair(dataset, dry_run=True)
    assert len(dry.mended) == 1
    assert len(verify(dataset).problems) == 1
    report = repair(dataset)
    assert (len(report.mended), report.quarantined, report.left) == (1, (), ())
    assert group.read_bytes() == whole
    damage()
    with DatasetWriter(dataset, manifest, assets):
        assert group.read_bytes() == whole
    assert verify(dataset).problems == ()


KILLED = """
import os, pathlib, signal, sys
from cache_schema.dataset import quarantine
from cache_schema.integrity.repair import repair
quarantine.sync = lambda folder: os.kill(os.getpid(), signal.SIGKILL)
repair(pathlib.Path(sys.argv[1]))
"""


@pytest.mark.parametrize("times", [1, 2])
def test_a_repair_that_is_killed_between_entry_and_folder_loses_nothing(dataset, manifest, assets, times):
    for number in range(1, times + 1):
        flip_a_value(dataset)
        folder = {
            file.relative_to(dataset / "clips" / FIRST): file.read_bytes()
            for file in (dataset / "clips" / FIRST).rglob("*")
            if file.is_file()
        }
        subprocess.run([sys.executable, "-c", KILLED, str(dataset)], cwd=ROOT, check=False)
        assert LatentDataset.open(dataset).clips == (SECOND,)
        assert (dataset / "clips" / FIRST).is_dir()
        with DatasetWriter(dataset, manifest, assets) as writer:  # which clears what killed runs have left
            aside = dataset / ".quarantine" / (FIRST if number == 1 else f"{FIRST}.{number}")
            assert {
                file.relative_to(aside / "clip"): file.read_bytes()
                for file in (aside / "clip").rglob("*")
                if file.is_file()
            } == folder
            assert (aside / "entry.json").is_file()
            clip = writer.clip(CLIPS[0])
            clip.append(values_of(FIRST, CLIPS[0].frames))
            clip.commit(wall_s=0)
    assert verify(dataset).problems == ()

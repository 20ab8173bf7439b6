"""Machines whose clocks are hours apart share a dataset: the times of files decide nothing."""

import dataclasses
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cache_schema.dataset.reader import LatentDataset
from cache_schema.dataset.writer import DatasetWriter
from cache_schema.errors import DatasetError
from cache_schema.format.ledger import Ledger
from cache_schema.integrity.verify import verify
from pipeline.bench2drive.source import Bench2Drive
from pipeline.extraction.run import extract
from pipeline.teachers.orion.presets import ORION_TINY_RANDOM
from tests.paths import ROOT

AT_WORK = """
import sys
from pathlib import Path
from cache_schema.dataset.commit import ClipFolder
from cache_schema.dataset.reader import read_manifest

path = Path(sys.argv[1])
folder = ClipFolder(path, sys.argv[2], read_manifest(path))
(folder.path / "zarr.json").write_text("{}")
print(folder.path, flush=True)
sys.stdin.read()
"""
"""A worker that has outlived its run, in the middle of a clip."""


@pytest.fixture(scope="module")
def teacher():
    return ORION_TINY_RANDOM.load(None, device="cpu")


@pytest.fixture(scope="module")
def undisturbed(clips_root, teacher, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("undisturbed") / "latents.zarr"
    extract(Bench2Drive(clips_root).select(), teacher, path)
    return path


def digests(path: Path) -> dict[str, str]:
    ledger = Ledger(path)
    return {clip: ledger.read(clip).digest for clip in ledger.clips()}


def set_clock(path: Path, hours: float) -> None:
    """Give all files and folders the time that they have where the clock is so many hours ahead."""
    then = time.time() + hours * 3600
    for file in (path, *path.rglob("*")):
        os.utime(file, (then, then))


@pytest.mark.parametrize("hours", [-7, 7])
def test_a_dataset_of_another_clock_is_gone_on_with(clips_root, teacher, undisturbed, tmp_path, hours):
    path, root = tmp_path / "latents.zarr", shutil.copytree(clips_root, tmp_path / "data")
    selection = Bench2Drive(root).select()
    first, *others = selection.clips
    extract(dataclasses.replace(selection, clips=(first,)), teacher, path)
    for name in ("dead", "killed"):  # of a writer without a lock, and of one whose lock nobody holds
        (path / ".partial" / name / "clip").mkdir(parents=True)
    (path / ".partial" / "killed.lock").touch()
    (path / "clips" / "without-entry").mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", AT_WORK, str(path), others[0].name],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as worker:
        growing = Path(worker.stdout.readline().strip())
        set_clock(path, hours)
        set_clock(root, -hours)
        report = extract(Bench2Drive(root).select(), teacher, path)
        assert (report.present, report.failed) == ((first.name,), ())
        assert sorted(report.committed) == sorted(clip.name for clip in others)
        assert (growing / "zarr.json").read_text() == "{}"
        assert sorted(entry.name for entry in (path / ".partial").iterdir()) == [
            growing.parent.name,
            f"{growing.parent.name}.lock",
        ]
        worker.stdin.close()
    assert digests(path) == digests(undisturbed)
    assert verify(path).problems == ()
    with DatasetWriter(path):
        assert not (path / ".partial").exists()


@pytest.mark.parametrize("hours", [-7, 7])
def test_a_dataset_that_is_held_stays_so_by_any_clock(undisturbed, tmp_path, hours):
    path = shutil.copytree(undisturbed, tmp_path / "latents.zarr")
    with DatasetWriter(path):
        set_clock(path, hours)
        with pytest.raises(DatasetError, match="is being written by another run"), DatasetWriter(path):
            pass


@pytest.mark.parametrize("hours", [-7, 7])
def test_an_open_reader_sees_by_any_clock_that_a_clip_was_made_again(
    clips_root, teacher, undisturbed, tmp_path, hours
):
    path = shutil.copytree(undisturbed, tmp_path / "latents.zarr")
    dataset = LatentDataset.open(path)
    before = {clip: dataset.read(clip, "planning_token") for clip in dataset.clips}
    shutil.rmtree(path)
    extract(Bench2Drive(clips_root).select(), teacher, path)
    set_clock(path, hours)
    for clip, values in before.items():
        assert (dataset.read(clip, "planning_token") == values).all()

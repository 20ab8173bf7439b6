"""Truth added in place: to the bits of a new extraction, however often it was interrupted."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cache_schema.dataset.reader import LatentDataset
from cache_schema.dataset.writer import DatasetWriter
from cache_schema.errors import DatasetError, IdentityError, RequestError
from cache_schema.format.features import FeatureSpec
from cache_schema.format.ledger import ClipInfo, Ledger
from cache_schema.format.manifest import CodeIdentity, DataIdentity, Manifest, TeacherIdentity
from cache_schema.integrity.repair import repair
from cache_schema.integrity.verify import verify
from cache_schema.storage.locks import hold
from cache_schema.vocabulary.driving import GROUND_TRUTH, GROUND_TRUTH_AGENTS
from pipeline.bench2drive.add_ground_truth import add_ground_truth
from pipeline.bench2drive.source import Bench2Drive
from tests.paths import ROOT

TOKEN = FeatureSpec(name="planning_token", shape=(8,), axes=("channel",), dtype="float16", role="target")
ADDED = {spec.name for spec in GROUND_TRUTH_AGENTS}


def write(path: Path, root: Path, *, without=(), step: int = 1) -> Path:
    """What an extraction writes, by a teacher with one small feature."""
    manifest = Manifest(
        features=(TOKEN, *(spec for spec in GROUND_TRUTH if spec.name not in without)),
        teacher=TeacherIdentity(name="quiet", weights="random:0", precision="fp32"),
        data=DataIdentity(name="synthetic", licence="CC0-1.0", frame_rate_hz=10.0),
        code=CodeIdentity(teachonce="0", libraries={}),
    )
    with DatasetWriter(path, manifest) as writer:
        for selected in Bench2Drive(root).select().clips:
            truth = selected.open().ground_truth()
            tokens = np.arange(selected.samples * 8).reshape(-1, 8) / 64
            values = {TOKEN.name: tokens, **truth}
            frames = -(-selected.samples // step)
            info = ClipInfo(name=selected.name, frames=frames, split=selected.split, tags=selected.tags)
            clip = writer.clip(info)
            clip.append({name: rows[::step] for name, rows in values.items() if name not in without})
            clip.commit(wall_s=1.0)
    return path


@pytest.fixture(scope="module")
def new(clips_root, tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("new") / "new.zarr", clips_root)


@pytest.fixture
def old(clips_root, tmp_path) -> Path:
    return write(tmp_path / "old.zarr", clips_root, without=ADDED)


def digests(path: Path) -> dict[str, str]:
    ledger = Ledger(path)
    return {clip: ledger.read(clip).digest for clip in ledger.clips()}


def test_an_old_dataset_extended_is_a_new_extraction(old, new, clips_root):
    assert not set(digests(old).values()) & set(digests(new).values())
    with pytest.raises(IdentityError, match="teachonce add-ground-truth"):
        DatasetWriter(old, LatentDataset.open(new).manifest).__enter__()
    report = add_ground_truth(old, clips_root)
    assert set(report.features) == ADDED
    assert (len(report.extended), report.present, report.failed) == (3, (), ())
    assert digests(old) == digests(new)
    one, other = LatentDataset.open(old), LatentDataset.open(new)
    assert one.manifest.identity() == other.manifest.identity()
    for clip in one.clips:
        for spec in other.manifest.features:
            np.testing.assert_array_equal(one.read(clip, spec.name), other.read(clip, spec.name))
    assert one.read(one.clips[0], "truth_agent_count").min() > 0
    assert verify(old).problems == ()
    assert add_ground_truth(old, clips_root).features == ()
    # As it would be extracted now, an extraction goes on with it.
    with DatasetWriter(old, other.manifest) as writer:
        assert len(writer.committed()) == 3


def test_several_processes_read(old, new, clips_root):
    assert len(add_ground_truth(old, clips_root, workers=2).extended) == 3
    assert digests(old) == digests(new)


def test_every_third_frame(clips_root, tmp_path):
    path = write(tmp_path / "third.zarr", clips_root, without=ADDED, step=3)
    add_ground_truth(path, clips_root)
    assert digests(path) == digests(write(tmp_path / "new.zarr", clips_root, step=3))


def test_a_raw_clip_that_is_missing_or_another(old, new, clips_root, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(clips_root, root)
    gone, short, moved = sorted((root / "v1").iterdir())
    gone.rename(tmp_path / "elsewhere")
    for file in sorted((short / "anno").iterdir())[2:]:
        file.unlink()
    shutil.rmtree(moved / "anno")
    shutil.copytree(tmp_path / "elsewhere" / "anno", moved / "anno")
    report = add_ground_truth(old, root)
    assert (report.extended, report.present) == ((), ())
    reasons = {failure.clip: failure.reason for failure in report.failed}
    assert "is not in" in reasons[gone.name]
    assert "has 2 frames" in reasons[short.name]
    assert "elsewhere than in the dataset" in reasons[moved.name]

    # One is there again: it is extended, but the dataset promises nothing yet.
    (tmp_path / "elsewhere").rename(gone)
    report = add_ground_truth(old, root)
    assert report.extended == (gone.name,)
    dataset = LatentDataset.open(old)
    assert dataset.manifest.feature("truth_agent_boxes") is None
    assert dataset.read(gone.name, "command").shape == (dataset.clip(gone.name).frames,)
    assert verify(old).problems == ()

    # With the right data the rest follows.
    report = add_ground_truth(old, clips_root)
    assert (report.present, report.failed) == ((gone.name,), ())
    assert digests(old) == digests(new)


KILLED = """
import os, signal, sys
from pathlib import Path
from cache_schema.dataset import add_features, commit
from pipeline.bench2drive.add_ground_truth import add_ground_truth

targets = {"commit": commit.Ledger, "rename_durably": commit, "write_durably": add_features}
target = targets[sys.argv[3]]
done, calls = getattr(target, sys.argv[3]), 0

def counting(*arguments):
    global calls
    calls += 1
    if calls == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
    return done(*arguments)

setattr(target, sys.argv[3], counting)
add_ground_truth(Path(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.parametrize(
    ("call", "number", "extended"), [("rename_durably", 8, 1), ("commit", 2, 1), ("write_durably", 1, 3)]
)
def test_killed_at_any_moment(old, new, clips_root, call, number, extended):
    """In the second clip between two arrays, or between arrays and ledger; and before the manifest."""
    process = subprocess.run(
        [sys.executable, "-c", KILLED, str(old), str(clips_root), call, str(number)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    dataset, whole = LatentDataset.open(old), LatentDataset.open(new)
    assert dataset.manifest.feature("truth_agent_boxes") is None
    for clip in dataset.clips:
        for spec in dataset.manifest.features:
            np.testing.assert_array_equal(dataset.read(clip, spec.name), whole.read(clip, spec.name))
    assert len(set(digests(old).values()) & set(digests(new).values())) == extended
    # Arrays that no ledger lists yet are no damage of their clip.
    assert repair(old, dry_run=True).quarantined == ()
    assert {problem.feature for problem in verify(old).problems} - {None} <= ADDED
    assert len(add_ground_truth(old, clips_root).present) == extended
    assert digests(old) == digests(new)
    assert verify(old).problems == ()


def test_what_cannot_be_extended(old, clips_root, tmp_path):
    with pytest.raises(DatasetError, match="no latent dataset"):
        add_ground_truth(tmp_path / "none.zarr", clips_root)
    bare = write(tmp_path / "bare.zarr", clips_root, without={*ADDED, "frame_index"})
    with pytest.raises(RequestError, match="frame_index"):
        add_ground_truth(bare, clips_root)
    with hold(old), pytest.raises(DatasetError, match="is being written by another run"):
        add_ground_truth(old, clips_root)

"""Commands that write large files: a full disk is told in three lines, a kill leaves nothing that counts."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import CheckpointError
from cache_schema.format.ledger import Ledger
from cache_schema.integrity.verify import verify
from pipeline.importers.orion_lite.import_npz import import_npz
from pipeline.teachers.orion.checkpoints.convert import convert
from pipeline.teachers.orion.checkpoints.reader import digest, read_weights, released_shapes
from pipeline.teachers.orion.checkpoints.tensors import random_weights, teacher_shapes
from pipeline.teachers.orion.presets import ORION_TINY_RANDOM
from tests.forked import Forked, run_forked
from tests.paths import ROOT

CONFIG = ORION_TINY_RANDOM.config
CLIPS = ("Accident_Town03_Route1_Weather0", "LaneChange_Town06_Route2_Weather1")
FRAMES = 40

KILLED_IN_CONVERT = """
import os, signal, sys
from pathlib import Path
from cache_schema.progress import Progress
from pipeline.teachers.orion.checkpoints.convert import convert
from pipeline.teachers.orion.presets import ORION_TINY_RANDOM

class Killer(Progress):
    def expect(self, total): self.left = int(total * float(sys.argv[3]))
    def advance(self, amount=1, status=""):
        self.left -= 1
        if self.left <= 0: os.kill(os.getpid(), signal.SIGKILL)

checkpoint, out = map(Path, sys.argv[1:3])
convert(checkpoint, out, config=ORION_TINY_RANDOM.config, shard_bytes=200_000, progress=Killer())
"""
KILLED_IN_IMPORT = """
import os, signal, sys, threading
from pathlib import Path
from pipeline.importers.orion_lite.import_npz import import_npz

def kill():
    while not any(out.glob(sys.argv[3])): pass
    os.kill(os.getpid(), signal.SIGKILL)

dump, out = Path(sys.argv[1]), Path(sys.argv[2])
threading.Thread(target=kill, daemon=True).start()
import_npz(dump, out)
"""


QUOTA = """
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static long written;

ssize_t write(int file, const void *bytes, size_t count) {
    struct stat status;
    if (!fstat(file, &status) && S_ISREG(status.st_mode) && (written += count) > atol(getenv("QUOTA"))) {
        errno = EDQUOT;
        return -1;
    }
    return syscall(SYS_write, file, bytes, count);
}
"""
"""A library that takes the place of ``write``: files may have so many bytes together."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pth"
    shapes = released_shapes(teacher_shapes(CONFIG), CONFIG)
    torch.save({"state_dict": {name: weight.clone() for name, weight in random_weights(shapes, 3)}}, path)
    return path


@pytest.fixture(scope="module")
def dump(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dump")
    rng = np.random.default_rng(0)
    for clip in CLIPS:
        for number in range(FRAMES):
            np.savez(
                folder / f"data_v1_{clip}_{number}.npz",
                visual_queries=rng.normal(size=(1, 9, 64)).astype(np.float16),
                planning_token=rng.normal(size=(1, 1, 4096)).astype(np.float16),
            )
    return folder


def killed(program: str, *arguments: object) -> None:
    done = run_forked(program, *arguments)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("command", ["convert", "import-npz", "demo-data", "extract"])
def test_a_full_disk_is_told_in_three_lines(tmp_path, clips_root, checkpoint, dump, command):
    out = tmp_path / "out"
    arguments, largest_file = {
        "convert": ([checkpoint, out, "--teacher", "orion-tiny-random"], 2_000_000),
        "import-npz": ([dump, out], 100_000),
        "demo-data": ([out, "--clips", 2, "--frames", 2], 10_000),
        "extract": ([out, "--data", clips_root], 20_000),
    }[command]
    process = Forked("-m", "cli", command, *arguments, largest_file=largest_file)
    _, err = process.communicate()
    assert process.returncode == 2, err
    assert "Traceback" not in err
    *_, happened, expected, repair = err.splitlines()
    assert "File too large" in happened or "os error 27" in happened
    assert expected.startswith("  expected: room")
    assert repair.startswith("  to do:    free space")
    if command in ("convert", "demo-data"):
        assert list(tmp_path.iterdir()) == []
    else:
        assert verify(out).problems == () if (out / "zarr.json").exists() else not Ledger(out).clips()


@pytest.mark.skipif(shutil.which("gcc") is None, reason="makes its quota with a C compiler")
@pytest.mark.parametrize(("command", "quota"), [("demo-data", 10_000), ("extract", 20_000)])
def test_a_quota_is_told_in_three_lines(tmp_path, clips_root, command, quota):
    library = tmp_path / "quota.so"
    compiler = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)]
    subprocess.run(compiler, input=QUOTA, text=True, check=True)
    out = tmp_path / "out"
    arguments = {"demo-data": ["--clips", "2", "--frames", "2"], "extract": ["--data", str(clips_root)]}
    done = subprocess.run(
        [sys.executable, "-m", "cli", command, str(out), *arguments[command]],
        cwd=ROOT,
        env=os.environ | {"LD_PRELOAD": str(library), "QUOTA": str(quota)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    *_, happened, expected, repair = done.stderr.splitlines()
    assert "Disk quota exceeded" in happened
    assert expected.startswith("  expected: room")
    assert repair.startswith("  to do:    free space")
    assert not out.exists() or not Ledger(out).clips()


@pytest.mark.parametrize("share", [0.1, 0.6, 1.0])
def test_a_conversion_that_is_killed_is_none(tmp_path, checkpoint, share):
    out = tmp_path / "converted"
    killed(KILLED_IN_CONVERT, checkpoint, out, share)
    assert not out.exists()
    with pytest.raises(CheckpointError):
        read_weights(out, CONFIG)
    with pytest.raises(CheckpointError):
        read_weights(tmp_path / "converted.partial", CONFIG)
    convert(checkpoint, out, config=CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["converted"]
    assert digest(read_weights(out, CONFIG)) == digest(read_weights(checkpoint, CONFIG))


@pytest.mark.parametrize("sign", [".partial/*/*/*/c*", "ledger/*.json"])
def test_an_import_that_is_killed_leaves_whole_clips_alone(tmp_path, dump, sign):
    out, undisturbed = tmp_path / "out.zarr", tmp_path / "undisturbed.zarr"
    killed(KILLED_IN_IMPORT, dump, out, sign)
    assert bool(Ledger(out).clips()) == (sign == "ledger/*.json")
    assert set(LatentDataset.open(out).clips) == set(Ledger(out).clips())
    assert import_npz(dump, out).failed == ()
    assert verify(out).problems == ()
    import_npz(dump, undisturbed)
    for clip in CLIPS:
        assert Ledger(out).read(clip).digest == Ledger(undisturbed).read(clip).digest

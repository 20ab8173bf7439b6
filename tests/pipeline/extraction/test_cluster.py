"""Real worker processes that are killed. After every fault the digests are those of an undisturbed run."""

import functools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from cache_schema.format.ledger import Ledger
from cache_schema.integrity.verify import verify
from pipeline.bench2drive.source import Bench2Drive
from pipeline.extraction.cluster import TeacherPlugin
from pipeline.extraction.dask_cluster import local_cluster
from pipeline.extraction.log import log_path, summarise
from pipeline.extraction.run import extract
from pipeline.teachers.orion.presets import ORION_TINY
from tests.paths import ROOT

EXTRACT = [
    sys.executable,
    "-m",
    "cli",
    "extract",
    "--slots",
    "2",
    "--teacher",
    "tests.pipeline.extraction.slow:SLOW",
]


def digests(path: Path) -> dict[str, str]:
    ledger = Ledger(path)
    return {clip: ledger.read(clip).digest for clip in ledger.clips()}


@pytest.fixture(scope="module")
def teacher():
    return ORION_TINY.load(None, device="cpu")


@pytest.fixture(scope="module")
def undisturbed(clips_root: Path, teacher, tmp_path_factory) -> dict[str, str]:
    """Digests of a run in one process, two slots."""
    path = tmp_path_factory.mktemp("undisturbed") / "latents.zarr"
    extract(Bench2Drive(clips_root).select(), teacher, path, slots=2)
    return digests(path)


def start(path: Path, root: Path, *, workers: int, delay_s: float = 0) -> subprocess.Popen:
    return subprocess.Popen(
        [*EXTRACT, str(path), "--data", str(root), "--workers", str(workers)],
        cwd=ROOT,
        env=os.environ | {"DELAY_S": str(delay_s)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err


def wait_for(condition, process: subprocess.Popen) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def completed(path: Path, root: Path, teacher) -> dict[str, str]:
    """Digests after a second run, which finds nothing but whole clips."""
    assert extract(Bench2Drive(root).select(), teacher, path, slots=2).failed == ()
    assert verify(path).problems == ()
    return digests(path)


def partial_clips(path: Path) -> set[str]:
    return {folder.name for folder in (path / ".partial").glob("*/*")}


def test_three_workers_make_the_same_digests(undisturbed, clips_root, tmp_path):
    path = tmp_path / "three.zarr"
    code, out, err = finish(start(path, clips_root, workers=3))
    assert code == 0, err
    assert "3 clips and 19 frames" in out
    assert digests(path) == undisturbed
    assert verify(path).problems == ()
    summary = summarise(log_path(path))
    assert (summary.clips, summary.frames, summary.retries) == (3, 19, 0)
    assert summary.busy_s == pytest.approx(summary.inputs_s + summary.teacher_s + summary.disk_s)


def test_every_worker_killed_in_turn(undisturbed, clips_root, tmp_path):
    path = tmp_path / "turns.zarr"
    process = start(path, clips_root, workers=2, delay_s=0.25)
    wait_for(lambda: partial_clips(path), process)
    workers = {
        child.pid
        for child in psutil.Process(process.pid).children(recursive=True)
        if "spawn_main" in " ".join(child.cmdline())
    }
    assert len(workers) == 2
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.5)
    code, _, err = finish(process)
    assert code == 0, err
    assert digests(path) == undisturbed
    assert verify(path).problems == ()


def test_the_lock_of_a_dead_host_is_ignored(undisturbed, clips_root, teacher, tmp_path):
    path = tmp_path / "stale.zarr"
    extract(Bench2Drive(clips_root).select("val"), teacher, path, slots=2)
    (path / ".lock").write_text("process 4711 on a-host-that-is-gone")
    left_behind = path / ".partial" / "a-host-that-is-gone-4711" / sorted(undisturbed)[0]
    shutil.copytree(path / "clips" / sorted(digests(path))[0], left_behind)
    assert completed(path, clips_root, teacher) == undisturbed


def test_a_worker_without_a_gpu_computes_with_one_thread_in_any_environment(tmp_path, monkeypatch):
    """So that its sums are rounded as on other workers."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "2")
    load = functools.partial(ORION_TINY.load, None, device="cpu")
    with local_cluster(1) as client:
        client.register_plugin(TeacherPlugin(load, tmp_path / "latents.zarr", slots=1))
        assert client.submit(torch.get_num_threads).result() == 1

"""Real worker processes that are killed. After every fault the digests are those of an undisturbed run."""

import asyncio
import contextlib
import functools
import os
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest
import torch
from typer.testing import CliRunner

from cache_schema.format.ledger import Ledger
from cache_schema.integrity.verify import verify
from cli import app
from pipeline.bench2drive.source import Bench2Drive
from pipeline.extraction.cluster import TeacherPlugin
from pipeline.extraction.dask_cluster import local_cluster, visible_gpus
from pipeline.extraction.log import log_path, summarise
from pipeline.extraction.run import extract
from pipeline.teachers.orion.presets import ORION_TINY_RANDOM
from tests.forked import Forked
from tests.paths import ROOT
from tests.toy.teacher import ToyTeacher


def digests(path: Path) -> dict[str, str]:
    ledger = Ledger(path)
    return {clip: ledger.read(clip).digest for clip in ledger.clips()}


@pytest.fixture(scope="module")
def teacher():
    return ORION_TINY_RANDOM.load(None, device="cpu")


@pytest.fixture(scope="module")
def undisturbed(clips_root: Path, teacher, tmp_path_factory) -> dict[str, str]:
    """Digests of a run in one process, two slots."""
    path = tmp_path_factory.mktemp("undisturbed") / "latents.zarr"
    extract(Bench2Drive(clips_root).select(), teacher, path, slots=2)
    return digests(path)


def start(path: Path, root: Path, *, start_new_session: bool = False) -> Forked:
    teacher = ("--teacher", "tests.pipeline.extraction.slow:SLOW", "--slots", 2)
    arguments = ("extract", path, "--data", root, "--workers", 2, *teacher)
    return Forked("-m", "cli", *arguments, env={"DELAY_S": "0.25"}, start_new_session=start_new_session)


def wait_for(condition, process: Forked) -> None:
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


@pytest.fixture(scope="module")
def started():
    """A cluster of two workers, in an environment that asks for two threads."""
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
                patch.setenv(name, "2")
            client = stack.enter_context(local_cluster(2))
        yield client


@pytest.fixture(scope="module")
def threads(started, tmp_path_factory) -> list[int]:
    """Threads of its workers, after the first teacher that they load."""
    path = tmp_path_factory.mktemp("threads") / "latents.zarr"
    load = functools.partial(ORION_TINY_RANDOM.load, None, device="cpu")
    started.register_plugin(TeacherPlugin(load, path, slots=1))
    return [started.submit(torch.get_num_threads, workers=[name]).result() for name in started.nthreads()]


@pytest.fixture(scope="module")
def joined(started, threads):
    """The cluster, whose threads have been counted."""
    return started


def test_two_workers_make_the_same_digests(joined, undisturbed, clips_root, tmp_path):
    path = tmp_path / "two.zarr"
    names = ("--teacher", "orion-tiny-random", "--slots", 2, "--scheduler", joined.scheduler.address)
    done = CliRunner().invoke(app, [*map(str, ("extract", path, "--data", clips_root, *names))])
    assert done.exit_code == 0, done.output
    assert "3 clips and 19 frames" in done.stdout
    assert digests(path) == undisturbed
    assert verify(path).problems == ()
    summary = summarise(log_path(path))
    assert (summary.clips, summary.frames, summary.retries) == (3, 19, 0)
    assert summary.busy_s == pytest.approx(summary.inputs_s + summary.teacher_s + summary.disk_s)


def test_every_worker_killed_in_turn(undisturbed, clips_root, tmp_path):
    path = tmp_path / "turns.zarr"
    process = start(path, clips_root)
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
    _, err = process.communicate()
    assert process.returncode == 0, err
    assert digests(path) == undisturbed
    assert verify(path).problems == ()
    assert summarise(log_path(path)).retries >= 1


def test_the_lock_of_a_dead_host_is_ignored(undisturbed, clips_root, teacher, tmp_path):
    path = tmp_path / "stale.zarr"
    extract(Bench2Drive(clips_root).select("val"), teacher, path, slots=2)
    (path / ".lock").write_text("process 4711 on a-host-that-is-gone")
    left_behind = path / ".partial" / "a-host-that-is-gone-4711" / sorted(undisturbed)[0]
    shutil.copytree(path / "clips" / sorted(digests(path))[0], left_behind)
    assert completed(path, clips_root, teacher) == undisturbed


def test_a_worker_without_a_gpu_computes_with_one_thread_in_any_environment(threads):
    """So that its sums are rounded as on other workers."""
    assert threads == [1, 1]


def test_a_clip_that_arrives_while_its_worker_stops_starts_no_teacher(tmp_path):
    """Python ends the process as soon as the plugin is gone, and torch aborts one that still computes."""
    plugin = TeacherPlugin(ToyTeacher, tmp_path / "latents.zarr", slots=1)
    asyncio.run(plugin.setup(None))
    plugin.teardown(None)
    with pytest.raises(RuntimeError, match="has stopped"):
        plugin.worker()


@pytest.mark.parametrize("when", ["while teachers are loaded", "in mid-clip"])
def test_ctrl_c_of_a_terminal_stops_with_a_word(clips_root, tmp_path, when):
    """A terminal sends it to every process of the group, and so to the workers."""
    path = tmp_path / "interrupted.zarr"
    loading = when == "while teachers are loaded"
    process = start(path, clips_root, start_new_session=True)
    condition = (path / ".lock").exists if loading else lambda: partial_clips(path)
    wait_for(condition, process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130, err
    lines = [line for line in err.splitlines() if not line.startswith("extract: ")]
    assert lines == ["stopped; what was committed is safe, and the same command goes on from there"]


def test_workers_in_another_folder_find_data_and_checkpoint(joined, tmp_path, monkeypatch):
    (tmp_path / "job/texts").mkdir(parents=True)
    (tmp_path / "job/texts/a.txt").write_text("one\ntwo\n")
    (tmp_path / "job/weights.pth").write_text("weights")
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "job")
    joined.run(os.chdir, tmp_path / "else")
    options = {
        "--data": "texts",
        "--source": "tests.toy.source:Texts",
        "--teacher": "tests.pipeline.extraction.slow:CHECKED",
        "--checkpoint": "weights.pth",
        "--scheduler": joined.scheduler.address,
    }
    done = CliRunner().invoke(
        app, ["extract", "x.zarr", *(text for pair in options.items() for text in pair)]
    )
    joined.run(os.chdir, ROOT)
    assert done.exit_code == 0, done.output
    assert Ledger(Path("x.zarr")).clips() == ("a",)


@pytest.mark.parametrize("chosen", ["-1", "", "none", "NoDevFiles", " ", "0", "0,1", "GPU-1234", None])
def test_without_a_gpu_none_is_counted(monkeypatch, chosen):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    if chosen is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert visible_gpus() == ()


@pytest.mark.parametrize(
    ("chosen", "usable", "names"),
    [
        (None, 2, ("0", "1")),
        ("1,0", 2, ("1", "0")),
        ("GPU-8f3a, GPU-11c2", 2, ("GPU-8f3a", "GPU-11c2")),
        ("0,-1,1", 1, ("0",)),
        ("0,7", 1, ("0",)),
        ("-1", 0, ()),
        ("0,0", 0, ()),
    ],
)
def test_gpus_are_those_that_torch_counts(monkeypatch, chosen, usable, names):
    """The counts are CUDA's for these values on a machine with two GPUs."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: usable)
    if chosen is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert visible_gpus() == names

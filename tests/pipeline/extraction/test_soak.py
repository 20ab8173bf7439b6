"""Kill an extraction hundreds of times at random moments: nothing lost, nothing wrong. For `make soak`."""

import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from cache_schema.dataset.reader import LatentDataset
from cache_schema.format.ledger import Ledger
from cache_schema.integrity.verify import verify
from pipeline.bench2drive.source import Bench2Drive
from pipeline.extraction.run import extract
from pipeline.teachers.orion.presets import ORION_TINY_RANDOM

KILLS = 200
LONGEST_S = 2.5
"""A run takes about two seconds here, so that some finish and some barely begin."""


def run(root: str, path: str) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    extract(Bench2Drive(Path(root)).select(), ORION_TINY_RANDOM.load(None, device="cpu"), Path(path), slots=2)


def digests(path: Path) -> dict[str, str]:
    ledger = Ledger(path)
    return {clip: ledger.read(clip).digest for clip in ledger.clips()}


@pytest.mark.soak
def test_two_hundred_kills(clips_root: Path, tmp_path: Path):
    # A server that has imported everything forks each run, so that kills hit the run and not its imports.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipeline.extraction.run", "pipeline.teachers.orion.teacher"])
    moments = random.Random(0)

    reference = tmp_path / "undisturbed.zarr"
    extract(Bench2Drive(clips_root).select(), ORION_TINY_RANDOM.load(None, device="cpu"), reference, slots=2)
    expected = digests(reference)

    path = tmp_path / "killed.zarr"
    kills = finished = partial = 0
    while kills < KILLS:
        process = context.Process(target=run, args=(str(clips_root), str(path)))
        process.start()
        process.join(moments.uniform(0, LONGEST_S))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            kills += 1
        assert process.exitcode in (0, -signal.SIGKILL)
        if not (path / "zarr.json").exists():
            continue
        # Whatever is committed is right, at every moment.
        committed = digests(path)
        assert committed.items() <= expected.items()
        partial += 0 < len(committed) < len(expected)
        for clip in committed:
            LatentDataset.open(path).read(clip, "planning_token")
        if process.exitcode == 0 or committed == expected:
            extract(
                Bench2Drive(clips_root).select(), ORION_TINY_RANDOM.load(None, device="cpu"), path, slots=2
            )
            assert digests(path) == expected
            assert verify(path).problems == ()
            shutil.rmtree(path)
            finished += 1
        time.sleep(0)
    print(f"{kills} kills; {finished} datasets completed; {partial} times a dataset was half done")
    assert finished > 3
    assert partial > 3

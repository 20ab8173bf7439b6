"""Serve and rehearse by the ordinary commands."""

import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import cli
from pipeline.bench2drive.source import Bench2Drive


@pytest.fixture(scope="module")
def rehearsed(clips_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every clip replayed to constant velocity."""
    results = tmp_path_factory.mktemp("rehearsed") / "results"
    done = CliRunner().invoke(
        cli.app, ["rehearse", "constant-velocity", "--out", str(results), "--clips", str(clips_root)]
    )
    assert done.exit_code == 0, done.output
    assert "no score of Bench2Drive" in done.output
    return results


def test_every_clip_is_driven_to_its_end_by_what_was_recorded(rehearsed: Path, clips_root: Path):
    clips = sorted(Bench2Drive(clips_root).select().clips, key=lambda clip: clip.samples)
    drives = sorted((np.load(path) for path in rehearsed.glob("drives/*.npz")), key=lambda d: len(d["poses"]))
    assert [len(drive["poses"]) for drive in drives] == [clip.samples for clip in clips]
    for clip, drive in zip(clips, drives, strict=True):
        opened = clip.open()
        speeds = np.array([opened.sample(frame).can_bus[7] for frame in range(clip.samples)])
        ahead = 0.5 * np.arange(1, 7) * speeds[:, None]
        np.testing.assert_allclose(drive["plans"], np.stack([0 * ahead, ahead], axis=-1), atol=1e-9)


def test_it_leaves_records_conditions_and_a_page(rehearsed: Path):
    told = json.loads((rehearsed / "drive.json").read_text())
    assert told["identity"] == {"student": "constant velocity"}
    assert (told["mode"], told["every"]) == ("parity", 1)
    page = (rehearsed / "drives.html").read_text()
    assert page.count("<svg") == len([*rehearsed.glob("drives/*.npz")]) == 3


def test_the_same_command_drives_nothing_again_and_another_policy_is_refused(
    rehearsed: Path, clips_root: Path
):
    command = ["rehearse", "constant-velocity", "--out", str(rehearsed), "--clips", str(clips_root)]
    before = {path: path.stat().st_mtime_ns for path in rehearsed.glob("drives/*.npz")}
    assert CliRunner().invoke(cli.app, command).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in rehearsed.glob("drives/*.npz")} == before
    refused = CliRunner().invoke(cli.app, [*command, "--every", "2"])
    assert refused.exit_code == 2
    assert "to do:" in refused.stderr


def test_the_teacher_of_a_dataset_drives(clips_root: Path, tmp_path: Path):
    dataset, results = tmp_path / "d.zarr", tmp_path / "results"
    teacher = ("--teacher", "orion-tiny-random", "--slots", "1", "--device", "cpu")
    extracted = CliRunner().invoke(cli.app, ["extract", str(dataset), "--data", str(clips_root), *teacher])
    assert extracted.exit_code == 0, extracted.output
    rehearse = ["rehearse", "teacher", "--out", str(results), "--clips", str(clips_root), "--device", "cpu"]
    unnamed = CliRunner().invoke(cli.app, rehearse)
    assert unnamed.exit_code == 2
    assert "to do: name it behind: teacher DATASET.zarr" in " ".join(unnamed.stderr.split())
    done = CliRunner().invoke(cli.app, [*rehearse[:2], str(dataset), *rehearse[2:]])
    assert done.exit_code == 0, done.output
    identity = json.loads((results / "drive.json").read_text())["identity"]
    assert identity["teacher"] == "orion-tiny-random (random:0)"
    assert (identity["system"], identity["perception"]) == ("orion", "orion-tiny-random")
    for drive in (np.load(path) for path in results.glob("drives/*.npz")):
        assert drive["plans"].std() > 1e-3


def test_a_server_says_where_it_listens_and_stops_when_told():
    command = [sys.executable, "-m", "cli", "serve", "constant-velocity", "--at", "tcp://127.0.0.1:0"]
    folder = Path(cli.__file__).parent
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder) as server:
        try:
            assert server.stdout is not None
            found = re.fullmatch(r"ready tcp://127\.0\.0\.1:(\d+)\n", server.stdout.readline())
            assert found
            socket.create_connection(("127.0.0.1", int(found[1])), timeout=5).close()
            server.send_signal(signal.SIGTERM)
            assert server.wait(timeout=20) == 0
        finally:
            server.kill()


def test_clips_that_are_not_there_are_told_in_three_lines(tmp_path: Path):
    command = [
        "rehearse",
        "constant-velocity",
        "--out",
        str(tmp_path / "out"),
        "--clips",
        str(tmp_path / "no"),
    ]
    refused = CliRunner().invoke(cli.app, command)
    assert refused.exit_code == 2
    assert "does not exist" in refused.stderr
    assert "expected:" in refused.stderr
    assert "to do:" in refused.stderr

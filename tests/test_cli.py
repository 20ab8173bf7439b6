"""The command line as a user finds it: real commands, exit codes, and messages instead of tracebacks."""

import errno
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from cache_schema.error_handling import ErrorHandlingGroup, concerns
from cli import app
from tests.paths import GOLDEN, ROOT

RECORDING = GOLDEN / "orion"
EXTRACT = ("extract", "{tmp}/x.zarr", "--data", "{clips}")


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def clip_of(dataset: Path) -> str:
    return min(entry.stem for entry in (dataset / "ledger").glob("*.json"))


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    shutil.copytree(GOLDEN / "format_1.zarr", tmp_path / "stored.zarr")
    return tmp_path / "stored.zarr"


@pytest.fixture(scope="module")
def latents(clips_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "latents.zarr"
    result = run("extract", path, "--data", clips_root, "--slots", "2")
    assert result.exit_code == 0, result.output
    assert "3 clips and 19 frames" in result.stdout
    return path


def test_verify_exits_with_0_where_all_is_well_and_with_1_elsewhere(stored: Path):
    assert run("verify", stored).exit_code == 0
    shard = stored / "clips" / "TJunction_Town05_Route9002_Weather3" / "token" / "c.0.0"
    content = bytearray(shard.read_bytes())
    content[0] ^= 1
    shard.write_bytes(content)
    result = run("verify", stored)
    assert result.exit_code == 1
    assert "holds other bytes than were written" in result.stdout
    assert run("verify", "--quick", stored).exit_code == 0
    shutil.rmtree(stored / "clips")
    assert run("verify", stored).exit_code == 1


def test_inspect(stored: Path):
    result = run("inspect", stored)
    assert "orion-tiny, fp32, weights random:0" in result.stdout
    assert "2 (1 train, 1 val), 5 frames" in result.stdout
    summary = json.loads(run("inspect", stored, "--json").stdout)
    assert summary["frames_by_split"] == {"train": 3, "val": 2}


def test_inspect_run(latents: Path, stored: Path):
    result = run("inspect", latents, "--run")
    assert "1 runs, 3 clips, 19 frames by 1 workers; 0 retries" in result.stdout
    missing = run("inspect", stored, "--run")
    assert missing.exit_code == 2
    assert "there is no log" in missing.stderr


def test_a_dataset_may_be_the_working_folder(
    clips_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "a" / "b.zarr").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b.zarr")
    assert run("extract", ".", "--data", clips_root).exit_code == 0
    assert "3 clips" in run("extract", "../b.zarr/", "--data", clips_root).stdout
    assert "slowest clips" in run("inspect", ".", "--run").stdout
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["b.zarr", "b.zarr.log.jsonl"]
    assert run("train", ".", "--run", "../run", "--tracker", "none", "--set", "epochs=1").exit_code == 0
    for command in (
        ("evaluate", "../run", "."),
        ("card", ".", "--licence", "mit"),
        ("push", ".", f"file://{tmp_path}/a/pushed.zarr"),
        ("subset", ".", "../subset.zarr"),
        ("verify", "."),
    ):
        assert run(*command).exit_code == 0, command
    (tmp_path / "a" / "pulled.zarr").mkdir()
    monkeypatch.chdir(tmp_path / "a" / "pulled.zarr")
    assert run("pull", f"file://{tmp_path}/a/pushed.zarr", ".").exit_code == 0
    assert run("verify", ".").exit_code == 0
    refused = run("show", ".", ".", "--clip", clip_of(tmp_path / "a" / "b.zarr"))
    assert refused.exit_code == 2
    assert "is not a PNG picture" in refused.stderr


def test_plan_measures_and_writes_nothing(clips_root: Path, tmp_path: Path):
    result = run(
        "plan", tmp_path / "x.zarr", "--data", clips_root, "--measure", "--slots", "2", "--workers", "8"
    )
    assert result.exit_code == 0, result.output
    assert "3 clips, 19 frames" in result.stdout
    assert "hours left on 8" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_parity_passes_with_0_and_fails_with_1(tmp_path: Path):
    result = run("parity", RECORDING)
    assert result.exit_code == 0, result.output
    assert "planning_token" in result.stdout
    assert "ego_fut_preds_all" in result.stdout
    assert run("parity", RECORDING, "--tolerance", "1e-9").exit_code == 1
    half = run("parity", RECORDING, "--device", "cpu", "--precision", "bf16")
    assert half.exit_code == 0, half.output
    assert "computed in bf16 backbone and language model" in half.stdout
    assert run("parity", RECORDING, "--device", "nowhere").exit_code == 2
    assert run("parity", tmp_path).exit_code == 2


def test_compare_with_itself(latents: Path):
    result = run("compare", latents, latents)
    assert result.exit_code == 0
    assert "19 frames of the 3 clips" in result.stdout
    assert "0.00e+00" in result.stdout


@pytest.fixture(scope="module")
def trained(latents: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, trained and measured."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    quick = ("--preset", "demo", "--set", "epochs=1", "--set", "mask=orion", "--tracker", "none")
    result = run("train", latents, "--run", folder, *quick)
    assert result.exit_code == 0, result.output
    measured = run("evaluate", folder, latents, "--split", "all")
    assert measured.exit_code == 0, measured.output
    assert "stand still" in measured.stdout
    return folder


def test_train_evaluate_export_report(latents: Path, trained: Path, tmp_path: Path):
    assert run("export", trained, tmp_path / "student.safetensors").exit_code == 0
    assert (tmp_path / "student.safetensors").stat().st_size > 0
    onnx = run("export", trained, tmp_path / "student.onnx", "--dataset", latents)
    assert onnx.exit_code == 0, onnx.output
    assert "onnxruntime and PyTorch differ by" in onnx.stdout
    assert run("report", trained, "--out", tmp_path / "report.html").exit_code == 0
    assert (tmp_path / "report.html").is_file()


def test_a_full_disk_is_told_in_three_lines_and_nothing_counts_as_written(
    latents: Path, trained: Path, tmp_path: Path
):
    shutil.copytree(trained, tmp_path / "run")
    quick = ("--set", "epochs=1", "--tracker", "none")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for command in (
        ("train", latents, "--run", tmp_path / "other", *quick),
        ("sweep", latents, "demo", "--runs", tmp_path / "runs", *quick),
        ("evaluate", tmp_path / "run", latents),
        ("report", tmp_path / "run"),
        ("report", tmp_path / "run", "--out", tmp_path / "page.html"),
        ("show", latents, tmp_path / "frame.png", "--clip", clip_of(latents)),
        ("export", tmp_path / "run", tmp_path / "student.safetensors"),
        ("export", tmp_path / "run", tmp_path / "student.onnx", "--dataset", latents),
    ):
        resource.setrlimit(resource.RLIMIT_FSIZE, (400, limits[1]))
        try:
            refused = run(*command)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert refused.exit_code == 2, (command, refused.stderr)
        assert "  expected: " in refused.stderr, command
        assert re.search(r"  to do:    .*free space", refused.stderr), command
        for folder in ("other", "runs"):
            shutil.rmtree(tmp_path / folder, ignore_errors=True)
        assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before, command


def test_sweep(latents: Path, tmp_path: Path):
    quick = ("--set", "epochs=1", "--tracker", "none")
    swept = run("sweep", latents, "demo", "demo-mimic", "--runs", tmp_path / "runs", *quick)
    assert swept.exit_code == 0, swept.output
    assert "demo-mimic" in swept.stdout


def test_a_dataset_is_parted_joined_and_stored_otherwise(latents: Path, tmp_path: Path):
    one, two = tmp_path / "one.zarr", tmp_path / "two.zarr"
    assert "2 clips" in run("subset", latents, one, "--part", "1/2").stdout
    assert "1 clips" in run("subset", latents, two, "--part", "2/2").stdout
    assert "3 clips" in run("merge", tmp_path / "whole.zarr", one, two).stdout
    joined = run("compare", latents, tmp_path / "whole.zarr")
    assert "19 frames of the 3 clips" in joined.stdout
    small = run("recode", latents, tmp_path / "small.zarr", "--feature", "scene_queries=int8-per-channel")
    assert small.exit_code == 0, small.output
    assert "of the derived vision_tokens 0.9999" in small.stdout
    assert "as int8-per-channel" in run("inspect", tmp_path / "small.zarr").stdout
    assert clip_of(latents) in run("inspect", latents, "--clips").stdout


def test_a_dataset_is_shared(latents: Path, tmp_path: Path):
    mine = tmp_path / "mine.zarr"
    shutil.copytree(latents, mine)
    place = (tmp_path / "place").as_uri()
    unlicensed = run("push", mine, place)
    assert unlicensed.exit_code == 2
    assert "--licence" in unlicensed.stderr
    assert run("card", mine, "--licence", "cc-by-nc-nd-4.0").exit_code == 0
    assert "3 clips" in run("push", mine, place).stdout
    fetched = run(
        "pull", place, tmp_path / "val.zarr", "--split", "val", "--features", "planning_token,command"
    )
    assert fetched.exit_code == 0, fetched.output
    assert run("verify", tmp_path / "val.zarr").exit_code == 0
    summary = json.loads(run("inspect", tmp_path / "val.zarr", "--json").stdout)
    assert [spec["name"] for spec in summary["features"]] == ["planning_token", "command"]
    assert summary["clips_by_split"] == {"val": 1}


def test_a_bad_clip_is_put_aside_and_made_again(latents: Path, clips_root: Path, tmp_path: Path):
    mine = tmp_path / "mine.zarr"
    shutil.copytree(latents, mine)
    clip = clip_of(mine)
    (mine / "clips" / clip / "planning_token" / "c.0.0").unlink()
    assert clip in run("repair", mine, "--dry-run").stdout
    assert run("verify", mine).exit_code == 1
    assert f"put aside: {clip}" in run("repair", mine).stdout
    assert run("extract", mine, "--data", clips_root, "--slots", "2").exit_code == 0
    assert "0.00e+00" in run("compare", latents, mine).stdout
    assert run("verify", mine).exit_code == 0


def test_a_frame_is_shown(latents: Path, clips_root: Path, tmp_path: Path):
    picture = tmp_path / "frame.png"
    shown = run("show", latents, picture, "--clip", clip_of(latents), "--frame", "1", "--data", clips_root)
    assert shown.exit_code == 0, shown.output
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["inspect", "/nowhere.zarr"], "there is no latent dataset at /nowhere.zarr"),
        (["extract", "{tmp}/x.zarr", "--data", "/nowhere"], "the folder /nowhere does not exist"),
        (
            [*EXTRACT, "--teacher", "orion-tyni"],
            "did you mean 'orion-tiny'",
        ),
        (
            [*EXTRACT, "--teacher", "json:dumps"],
            "'json:dumps' is no teacher",
        ),
        ([*EXTRACT, "--teacher", "orion-7b"], "needs a checkpoint"),
        ([*EXTRACT, "--checkpoint", "/nowhere.pth"], "/nowhere.pth"),
        (
            [*EXTRACT, "--device", "nonsense"],
            "'nonsense' cannot be used",
        ),
        (["extract", "{clips}", "--data", "{clips}"], "is no latent dataset, but it is not empty"),
        ([*EXTRACT, "--teacher", "orion-7b", "--workers", "1"], "needs a checkpoint"),
        ([*EXTRACT, "--scheduler", "tcp://127.0.0.1:9"], "no dask scheduler answers at tcp://127.0.0.1:9"),
        (
            [*EXTRACT, "--scheduler", "tcp://x:1", "--workers", "2"],
            "were both given",
        ),
        (["plan", "{clips}/data.json", "--data", "{clips}"], "is no latent dataset"),
        (["train", "{clips}", "--run", "{tmp}/run"], "there is no latent dataset"),
        (["evaluate", "{tmp}/no-run", "{clips}"], "there is no latent dataset"),
        (["demo-data", "{clips}/data.json/x"], "data.json"),
        (["train", "{clips}", "--run", "{tmp}/run", "--set", "epochs"], "sets nothing"),
        (["train", "{clips}", "--run", "{tmp}/run", "--set", "epoch=3"], "no field 'epoch'"),
        (["reencode", "{tmp}/a", "{tmp}/b", "--feature", "x"], "it is not clear what to reencode: x"),
        (["recode", "{tmp}/a", "{tmp}/b", "--feature", "x"], "it is not clear what to reencode: x"),
        (["subset", "{tmp}/a", "{tmp}/b", "--tag", "town"], "the tag 'town' does not parse"),
        (["subset", "{tmp}/a", "{tmp}/b", "--part", "3/2"], "'3/2' does not parse"),
        (["pull", "ftp://here/x", "{tmp}/b"], "ftp://here/x"),
        (["export", "{tmp}/run", "{tmp}/x.onnx"], "--dataset is missing"),
        (["export", "{tmp}/run", "{tmp}/x.pth"], "--checkpoint is missing"),
        (["import-npz", "{tmp}", "{tmp}/x.zarr"], "{tmp}"),
    ],
)
def test_what_a_user_can_correct_is_explained(
    arguments: list[str], words: str, clips_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pipeline.extraction.dask_cluster.CONNECT_WITHIN_S", 1)
    result = run(*(argument.format(tmp=tmp_path, clips=clips_root) for argument in arguments))
    assert result.exit_code == 2, result.output
    assert words.format(tmp=tmp_path) in result.stderr
    assert "to do:" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_data_file_that_does_not_parse(clips_root: Path, tmp_path: Path):
    root = tmp_path / "data"
    shutil.copytree(clips_root, root)
    (root / "data.json").write_text("{bad")
    result = run("plan", tmp_path / "x.zarr", "--data", root)
    assert result.exit_code == 2
    assert "data.json cannot be read" in result.stderr


def test_brackets_in_a_path_are_shown(tmp_path: Path):
    result = run("inspect", tmp_path / "a[blue]b.zarr")
    assert "a[blue]b.zarr" in result.stderr


def test_a_path_that_the_user_named_and_that_cannot_be_written(stored: Path, tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    result = run("demo-data", tmp_path / "file" / "data")
    assert result.exit_code == 2
    assert "Not a directory" in result.stderr
    assert "to do:    correct the path, or its permissions" in result.stderr


def test_a_file_that_no_user_named_keeps_its_traceback(tmp_path: Path):
    plug_in = tmp_path / "broken.py"
    plug_in.write_text(
        "class Source:\n"
        "    kind = 'driving'\n"
        "    def __init__(self, root): pass\n"
        "    def select(self, split): open('/nowhere/of-our-own.txt')\n"
    )
    arguments = ("extract", str(tmp_path / "x.zarr"), "--data", str(tmp_path), "--source", "broken:Source")
    run = subprocess.run(
        [sys.executable, "-m", "cli", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert "FileNotFoundError" in run.stderr
    assert "Traceback" in run.stderr
    assert "to do:" not in run.stderr


def test_a_full_disk_is_told_whichever_file_did_not_fit():
    app = typer.Typer(cls=ErrorHandlingGroup)

    @app.command()
    def write() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    @app.command()
    def fail() -> None:
        raise OSError(errno.EIO, "Input/output error")

    result = CliRunner().invoke(app, ["write"])
    assert result.exit_code == 2
    assert "the disk is full" in result.stderr
    assert "to do:    free space" in result.stderr
    assert CliRunner().invoke(app, ["fail"]).exit_code == 1


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("/data/x.zarr", True),
        ("/data/x.zarr/clips/a/zarr.json", True),
        ("/data/x.zarr.log.jsonl", True),
        ("/data/.x.zarr.partial/v1", True),
        ("/data", True),
        ("/etc/teachonce.json", False),
        ("/data/other.zarr", False),
        ("/runs/demo/log.jsonl", True),
        ("relative.zarr/clips", True),
    ],
)
def test_which_paths_are_the_user_s(file: str, named: bool):
    arguments = ["/data/x.zarr", "--run=/runs/demo", "--slots", "2", "relative.zarr"]
    assert concerns(FileNotFoundError(2, "No such file", file), arguments) is named


def test_errors_without_a_file_are_not_about_a_path():
    assert not concerns(OSError(28, "No space left on device"), ["/data"])


def test_the_old_name_of_add_ground_truth_is_kept_and_hidden(latents: Path, clips_root: Path):
    for name in ("add-ground-truth", "add-truth"):
        done = run(name, latents, "--data", clips_root)
        assert done.exit_code == 0, done.output
        assert "0 clips extended by nothing; 3 had them already" in done.stdout
    shown = run("--help").stdout
    assert "add-ground-truth" in shown
    assert "add-truth" not in shown


def test_loading_a_teacher_shows_progress(clips_root: Path, tmp_path: Path):
    done = run("extract", tmp_path / "x.zarr", "--data", clips_root)
    assert done.exit_code == 0
    assert "load: 318/318 tensors" in done.stderr  # 44 of them are the planner's

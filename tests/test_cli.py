"""The front door as a user finds it: real commands, exit codes, and words instead of tracebacks."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli import app

GOLDEN = Path(__file__).parent / "golden"
RECORDING = GOLDEN / "orion"
EXTRACT = ("extract", "{tmp}/x.zarr", "--data", "{clips}")


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


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


def test_verify_says_yes_with_0_and_no_with_1(stored: Path):
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
    assert run("parity", tmp_path).exit_code == 2


def test_compare_with_itself(latents: Path):
    result = run("compare", latents, latents)
    assert result.exit_code == 0
    assert "19 frames of the 3 clips" in result.stdout
    assert "0.00e+00" in result.stdout


def test_train_evaluate_export_report(latents: Path, tmp_path: Path):
    folder = tmp_path / "run"
    trained = run("train", latents, "--run", folder, "--preset", "tests.test_cli:QUICK")
    assert trained.exit_code == 0, trained.output
    measured = run("evaluate", folder, latents, "--split", "all")
    assert measured.exit_code == 0, measured.output
    assert "stand still" in measured.stdout
    assert run("export", folder, tmp_path / "student.safetensors").exit_code == 0
    assert (tmp_path / "student.safetensors").stat().st_size > 0
    assert run("report", folder).exit_code == 0
    assert (folder / "report.html").is_file()


def _quick():
    from student.config import preset

    return preset("demo").model_copy(update={"epochs": 1})


QUICK = _quick()


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
    ],
)
def test_what_a_user_can_mend_is_said_in_words(
    arguments: list[str], words: str, clips_root: Path, tmp_path: Path
):
    result = run(*(argument.format(tmp=tmp_path, clips=clips_root) for argument in arguments))
    assert result.exit_code == 2, result.output
    assert words in result.stderr
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

"""A run on questions through the ordinary commands: evaluated, reported, exported, compared with others."""

import importlib.util
import json

import pytest
from safetensors.numpy import load_file
from transformers import InternVLForConditionalGeneration
from typer.testing import CliRunner

from cli import app
from tests.student.drive_kd.question_sets import asked_rows, write_pair

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("sacrebleu") is None, reason="needs teachonce[evaluate]"
)


def teachonce(*arguments):
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    return write_pair(tmp_path_factory.mktemp("sets"), asked_rows(), dtype="float16")


def test_a_run_is_evaluated_reported_and_exported(sets, tmp_path):
    teacher, own = sets
    run = tmp_path / "run"
    teachonce(
        *("train", teacher, "--with", own, "--run", run, "--preset", "drive-kd-tiny"),
        *("--set", "epochs=2", "--tracker", "none"),
    )
    shown = teachonce("evaluate", run, teacher, "--with", own, "--split", "all")
    assert "proxies, not DriveBench scores" in shown
    found = json.loads((run / "evaluation.json").read_text())
    assert (found["kind"], found["split"], found["epoch"]) == ("questions", "all", 2)
    arrays = load_file(run / "evaluation.safetensors")
    assert found["groups"]["all"]["losses"]["answer_ce"]["value"] == pytest.approx(
        arrays["loss.answer_ce"].mean()
    )
    assert {len(arrays[name]) for name in ("clip", "choice", "reply_ends", "loss.planning")} == {6}

    teachonce("report", run)
    page = (run / "report.html").read_text()
    assert f"<td>{found['groups']['all']['perplexity']['value']:.4g}<" in page
    assert "run: questions, split all, after 2 epochs" in page
    assert "Open-loop" not in page

    folder = tmp_path / "student"
    exported = teachonce("export", run, folder, "--dataset", teacher, "--with", own)
    assert "logits and the student's differ" in exported
    InternVLForConditionalGeneration.from_pretrained(folder)
    described = json.loads((folder / "teachonce.json").read_text())
    assert described["config"]["system"] == "drive-kd"
    assert described["epoch"] == 2


def test_a_sweep_has_a_row_a_measure_with_its_interval(sets, tmp_path):
    teacher, own = sets
    presets = ("drive-kd-tiny-ce", "drive-kd-tiny")
    options = ("--runs", tmp_path, "--with", own, "--set", "epochs=1", "--tracker", "none")
    shown = teachonce("sweep", teacher, *presets, *options)
    table = json.loads((tmp_path / "sweep.json").read_text())
    ce, whole = (outcome["numbers"] for outcome in table["outcomes"])
    assert ce.keys() == whole.keys() > {"accuracy", "perplexity", "loss reasoning"}  # measured in either case
    (row,) = (line.split("│") for line in shown.splitlines() if "perplexity" in line)
    assert [cell.strip() for cell in row[2:4]] == [f"{of_one['perplexity']:.3f}" for of_one in (ce, whole)]

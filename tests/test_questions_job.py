"""The whole job on questions by the ordinary commands: demo questions -> two datasets -> student -> folder.

That an extraction ends with the same digests after a kill is shown by tests/pipeline/teachers/internvl3, of
a training run by tests/student/drive_kd.
"""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import InternVLForConditionalGeneration
from typer.testing import CliRunner

from cache_schema.dataset.join import open_dataset
from cache_schema.dataset.reader import LatentDataset
from cli import app
from student.runs import checkpoint
from student.runs.log import read_log

SHARED = "attention_groups_prefix"
REASONING = ("attention_groups", "attention_groups_to_prefix", SHARED)
SEQUENCE = ("token_ids", "answer_start", "image_runs", "capability")


def teachonce(*arguments: object) -> str:
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About three clips, one of them for validation, long enough to ask what the ego will do."""
    root = tmp_path_factory.mktemp("questions")
    teachonce("demo-data", root / "clips", "--clips", 3, "--frames", 24)
    teachonce("demo-questions", root / "clips", root / "questions.json", "--every", 6)
    return root / "questions.json"


@pytest.fixture(scope="module")
def datasets(questions: Path) -> tuple[Path, Path]:
    """The teacher's and the student's."""
    paths = []
    for teacher in ("internvl3-tiny", "internvl3-tiny-vision"):
        paths.append(questions.with_name(f"{teacher}.zarr"))
        extracted = ("extract", paths[-1], "--data", questions, "--source", "drive-kd", "--slots", 2)
        teachonce(*extracted, "--teacher", teacher)
        assert "all as written" in teachonce("verify", paths[-1])
    return paths[0], paths[1]


@pytest.fixture(scope="module")
def run(datasets: tuple[Path, Path]) -> Path:
    attention, vision = datasets
    folder = attention.with_name("run")
    options = ("--preset", "drive-kd-tiny", "--set", "epochs=2", "--tracker", "none")
    teachonce("train", attention, "--with", vision, "--run", folder, *options)
    return folder


def test_both_datasets_hold_what_was_asked(questions: Path, datasets: tuple[Path, Path]):
    entries = json.loads(questions.read_text())["data"]
    joined = open_dataset(*datasets)
    whole = LatentDataset.open(datasets[0])
    assert {whole.entry(clip).clip.split for clip in joined.clips} == {"train", "val"}
    asked = {(entry["scene"], entry["frame"], entry["question_id"]) for entry in entries}
    held = {
        (clip, int(frame), int(number))
        for clip in joined.clips
        for frame, number in zip(
            joined.read(clip, "frame_index"), joined.read(clip, "question_id"), strict=True
        )
    }
    assert held == asked
    assert len(asked) == len(entries)
    # Questions about the same images share what they begin with, and the images themselves.
    for index in ("prefix_sample", "images_sample"):
        holders = [np.unique(joined.read(clip, index)).size for clip in joined.clips]
        assert sum(holders) < len(entries), index


def test_a_part_is_shared_and_trained_from(datasets: tuple[Path, Path], tmp_path: Path):
    attention, vision = datasets
    whole, url, part = LatentDataset.open(attention), f"file://{tmp_path / 'shared'}", tmp_path / "part.zarr"
    teachonce("card", attention, "--licence", "cc0-1.0")
    teachonce("push", attention, url)
    asked = ",".join((*SEQUENCE, *REASONING))
    pattern = "*Town0*"
    teachonce("pull", url, part, "--clips", pattern, "--features", asked)
    teachonce("verify", part)
    pulled = LatentDataset.open(part)
    assert 0 < len(pulled.clips) < len(whole.clips)
    names = {spec.name for spec in pulled.manifest.features}
    assert names == {*SEQUENCE, *REASONING, "prefix_sample"}
    for clip in pulled.clips:
        for mine, other in zip(pulled.read(clip, SHARED), whole.read(clip, SHARED), strict=True):
            assert mine.size
            np.testing.assert_array_equal(mine, other)

    own = tmp_path / "own.zarr"
    teachonce("subset", vision, own, "--clips", pattern)
    options = ("--preset", "drive-kd-tiny-single-reasoning", "--set", "epochs=1", "--tracker", "none")
    teachonce("train", part, "--with", own, "--run", tmp_path / "run", *options)
    epoch = next(line for line in read_log(tmp_path / "run") if line["kind"] == "epoch")
    assert epoch["train"].keys() == {"answer_ce", "reasoning", "total"}
    assert epoch["train"]["reasoning"] > 0


def test_a_student_learns_and_is_measured_and_exported(
    questions: Path, datasets: tuple[Path, Path], run: Path, tmp_path: Path
):
    attention, vision = datasets
    first, last = (line for line in read_log(run) if line["kind"] == "epoch")
    assert last["train"]["answer_ce"] < first["train"]["answer_ce"]
    assert last["val"]["answer_ce"] < first["val"]["answer_ce"]

    folder = tmp_path / "student"
    teachonce("export", run, folder, "--dataset", attention, "--with", vision)
    loaded = InternVLForConditionalGeneration.from_pretrained(folder).state_dict()
    _, learned = checkpoint.read_checkpoint(run)
    began = LatentDataset.open(vision).asset("student")
    assert loaded.keys() == began.keys()
    for name, value in loaded.items():
        expected = learned[name] if name in learned else torch.from_numpy(began[name])
        assert torch.equal(value, expected), name

    if importlib.util.find_spec("sacrebleu") is None:
        pytest.skip("needs teachonce[evaluate]")
    teachonce("evaluate", run, attention, "--with", vision)
    found = json.loads((run / "evaluation.json").read_text())
    everything = found["groups"]["all"]
    asked = [entry for entry in json.loads(questions.read_text())["data"] if entry["split"] == "val"]
    assert everything["questions"] == everything["multiple_choice"]["questions"] == len(asked)
    assert everything["losses"].keys() == {"answer_ce", "perception", "reasoning", "planning"}
    teachonce("report", run)
    page = (run / "report.html").read_text()
    for value in (everything["multiple_choice"]["accuracy"], everything["losses"]["reasoning"]):
        assert f"<td>{value['value']:.4g}<" in page

"""The whole job with a source, a teacher and a system that are no part of the product."""

from pathlib import Path

from typer.testing import CliRunner

from cli import app
from student.runs.checkpoint import read_checkpoint

SYSTEM = ("--system", "tests.toy.system:Toy")


def teachonce(*command: object) -> str:
    done = CliRunner().invoke(app, list(map(str, command)))
    assert done.exit_code == 0, done.output
    return done.stdout


def test_texts_teacher_and_student_meet_at_the_dataset_alone(tmp_path: Path):
    texts, dataset, run = tmp_path / "texts", tmp_path / "latents.zarr", tmp_path / "run"
    texts.mkdir()
    for number in range(4):
        lines = [f"the quick {number}", "brown fox", "", "jumps over" * number, "lazy"]
        (texts / f"text-{number}.txt").write_text("\n".join(lines))
    teacher = ("--source", "tests.toy.source:Texts", "--teacher", "tests.toy.teacher:TOY")
    teachonce("extract", dataset, "--data", texts, *teacher, "--device", "cpu")
    teachonce("verify", dataset)
    preset = ("--preset", "tests.toy.system:TOY", "--tracker", "none", "--device", "cpu")
    assert "2 epochs, 8 steps" in teachonce("train", dataset, "--run", run, *preset)  # 15 lines in fours
    assert "val, after 2 epochs" in teachonce("evaluate", run, dataset, *SYSTEM, "--device", "cpu")
    assert "4 tensors" in teachonce("export", run, tmp_path / "toy.json", "--dataset", dataset, *SYSTEM)
    assert read_checkpoint(run)[0].trained_on.teacher.name == "toy"

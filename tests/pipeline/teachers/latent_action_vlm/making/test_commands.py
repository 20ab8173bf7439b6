"""What the commands that make a teacher refuse, and say of themselves."""

from pathlib import Path

from typer.testing import CliRunner

from cli import app


def teachonce(*command: object) -> str:
    done = CliRunner().invoke(app, [*map(str, command)])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_value_that_sets_nothing(driven: Path, tmp_path: Path):
    for text in ("steps_1", "=1"):
        done = CliRunner().invoke(app, ["train-actions", str(tmp_path), "--data", str(driven), "--set", text])
        assert done.exit_code == 2
        assert f"--set {text!r} sets nothing" in done.output
    twice = ["--set", "seed=1", "--set", "seed=2"]
    done = CliRunner().invoke(app, ["train-actions", str(tmp_path), "--data", str(driven), *twice])
    assert "'seed' is set twice" in done.output


def test_the_help_says_that_they_are_experimental():
    for command in ("train-actions", "add-codes", "tune-vlm"):
        assert "Experimental:" in teachonce(command, "--help")

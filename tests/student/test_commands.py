"""The student's commands, as far as they do more than call one function."""

import pytest
from typer.testing import CliRunner

from cli import app
from student.systems import PRESETS


def test_the_help_of_train_lists_every_preset():
    shown = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "400", "TERMINAL_WIDTH": "400"})
    assert shown.exit_code == 0
    words = shown.output.replace("\n", " ").split()
    assert {f"{name}," for name in PRESETS} <= set(words)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("epochs", "--set 'epochs' sets nothing"),
        ("student.depth=3", "student.depth: Extra inputs"),
        ("losses.mimic=maybe", "a term of the loss cannot be 'maybe'"),
    ],
)
def test_a_change_that_does_not_fit_is_the_users_error(change, message, dataset_path, tmp_path):
    command = ["train", dataset_path, "--run", tmp_path / "run", "--set", change]
    refused = CliRunner().invoke(app, list(map(str, command)))
    assert refused.exit_code == 2
    assert message in refused.stderr
    assert not (tmp_path / "run").exists()

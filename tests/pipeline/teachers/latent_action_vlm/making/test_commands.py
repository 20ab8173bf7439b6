"""A teacher is made, and used, from the command line alone."""

from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from cache_schema.dataset.reader import LatentDataset
from cache_schema.integrity.verify import verify
from cli import app
from tests.pipeline.teachers.latent_action_vlm.making.conftest import FEW


def teachonce(*command: object) -> str:
    done = CliRunner().invoke(app, [*map(str, command)])
    assert done.exit_code == 0, done.output
    return done.stdout


def setting(option: str, **values: str) -> list[str]:
    return [part for field, value in values.items() for part in (option, f"{field}={value}")]


def test_from_clips_to_a_teacher_that_says_codes(driven: Path, tmp_path: Path):
    data = ("--data", driven)
    cpu = ("--device", "cpu")
    learned = teachonce("train-actions", tmp_path / "actions", *data, *setting("--set", **FEW), *cpu)
    assert "ego codes in use" in learned
    assert "R2 of the yaw rate from environment codes" in learned
    first, second = tmp_path / "first.zarr", tmp_path / "second.zarr"
    of_teacher = ("--teacher", "latentvla-tiny", *cpu)
    teachonce("extract", first, *data, *of_teacher)
    file = tmp_path / "actions" / "actions.safetensors"
    added = teachonce("add-codes", first, *data, "--actions", file, *cpu)
    assert "3 clips extended by labels, of which 9 frames have any" in added
    recipe = setting("--train", steps="20", batch_size="4", learning_rate="1e-2")
    tuned = teachonce("tune-vlm", tmp_path / "vlm", first, *data, *of_teacher, *recipe)
    assert "with the images of other frames" in tuned
    checkpoint = tmp_path / "vlm" / "model"
    teachonce("extract", second, *data, *of_teacher, "--checkpoint", checkpoint, "--split", "val")
    teachonce("add-codes", second, *data, "--actions", file, *cpu)
    before, after = LatentDataset.open(first), LatentDataset.open(second)
    assert verify(second).problems == ()
    assert before.manifest.teacher.weights == "random:0"
    assert after.manifest.teacher.weights.startswith("sha256:")
    (clip,) = after.clips
    np.testing.assert_array_equal(before.read(clip, "code_labels"), after.read(clip, "code_labels"))
    # Random weights say codes by chance: one of 256 tokens is; what was taught says little else.
    assert np.median(before.read(clip, "code_mass")) < 0.5 < np.median(after.read(clip, "code_mass"))


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

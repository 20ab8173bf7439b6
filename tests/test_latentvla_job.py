"""The whole job of LatentVLA-R by the ordinary commands: demo clips -> a teacher -> a dataset -> students.

That each step ends with the same bits after a kill is shown beside the step.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file
from typer.testing import CliRunner

from cache_schema.dataset.reader import LatentDataset
from cli import app
from student.runs.checkpoint import read_checkpoint
from student.runs.log import read_log

LABELS = 30
"""Frames of 0.1 s that a label looks ahead."""
FRAMES = LABELS + 2
ACTIONS = {"steps_1": 4, "steps_2": 4, "batch_size": 8}
TUNING = {"steps": 20, "batch_size": 4, "learning_rate": 1e-2}


def teachonce(*command: object) -> str:
    done = CliRunner().invoke(app, [*map(str, command)])
    assert done.exit_code == 0, done.output
    return done.stdout


def setting(option: str, values: dict[str, object]) -> list[str]:
    return [part for field, value in values.items() for part in (option, f"{field}={value}")]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips, the last one for validation: two frames of each have labels."""
    root = tmp_path_factory.mktemp("job") / "clips"
    teachonce("demo-data", root, "--clips", 3, "--frames", FRAMES)
    return root


@pytest.fixture(scope="module")
def datasets(clips: Path) -> tuple[Path, Path]:
    """By the tiny teacher as it is, and by the one that was taught codes."""
    at = clips.parent
    data, cpu, teacher = ("--data", clips), ("--device", "cpu"), ("--teacher", "latentvla-tiny")
    learned = teachonce("train-actions", at / "actions", *data, *setting("--set", ACTIONS), *cpu)
    assert "ego codes in use" in learned
    assert "R2 of the yaw rate from environment codes" in learned
    labelling = ("--actions", at / "actions" / "actions.safetensors", *data, *cpu)
    untaught, latents = at / "untaught.zarr", at / "latents.zarr"
    teachonce("extract", untaught, *data, *teacher, *cpu)
    added = teachonce("add-codes", untaught, *labelling)
    assert "3 clips extended by labels, of which 6 frames have any" in added
    tuned = teachonce("tune-vlm", at / "vlm", untaught, *data, *teacher, *setting("--train", TUNING), *cpu)
    assert "with the images of other frames" in tuned
    inputs = ("--inputs", "camera_strip_256", "--checkpoint", at / "vlm" / "model")
    teachonce("extract", latents, *data, *teacher, *inputs, *cpu)
    teachonce("add-codes", latents, *labelling)
    assert "all as written" in teachonce("verify", latents)
    return untaught, latents


def test_a_teacher_is_taught_to_say_codes(datasets: tuple[Path, Path]):
    before, after = map(LatentDataset.open, datasets)
    assert before.manifest.teacher.weights == "random:0"
    assert after.manifest.teacher.weights.startswith("sha256:")
    for clip in after.clips:
        labels = after.read(clip, "code_labels")
        np.testing.assert_array_equal(before.read(clip, "code_labels"), labels)
        assert (labels[:-LABELS] >= 0).all()
        assert (labels[-LABELS:] < 0).any(axis=1).all()
        # Random weights say codes by chance: one of 256 tokens is; what was taught says little else.
        assert np.median(before.read(clip, "code_mass")) < 0.5 < np.median(after.read(clip, "code_mass"))


def test_students_learn_from_the_dataset_alone(datasets: tuple[Path, Path], tmp_path: Path):
    _, latents = datasets
    options = ("--set", "epochs=2", "--tracker", "none")
    fused, distilled, weights = (tmp_path / name for name in ("fused", "distilled", "fused.safetensors"))
    teachonce("train", latents, "--run", fused, "--preset", "latentvla-fused-tiny", *options)
    teachonce("export", fused, weights, "--dataset", latents)
    started = ("--set", f"start_from={weights}")
    teachonce(
        "train", latents, "--run", distilled, "--preset", "latentvla-distilled-tiny", *options, *started
    )
    for run in (fused, distilled):
        teachonce("evaluate", run, latents, "--split", "all")
        first, last = (line["train"]["total"] for line in read_log(run) if line["kind"] == "epoch")
        assert last < first

    found = json.loads((distilled / "evaluation.json").read_text())
    arrays = load_file(distilled / "evaluation.safetensors")
    assert len(found["clips"]) == 3
    assert arrays["codes.student"].shape == arrays["codes.teacher"].shape == (3 * FRAMES, 12)
    agreed = (arrays["codes.student"] == arrays["codes.teacher"]).mean()
    assert found["measures"]["code_agreement"]["value"] == pytest.approx(agreed)
    teachonce("report", fused, distilled)
    page = (tmp_path / "report.html").read_text()
    assert "code agreement" in page
    assert page.count(">codes of the teacher<") == 1  # over time, of the only student that tells any
    assert "data:image" not in page
    for quantity in ("yaw_rate", "acceleration"):
        assert arrays[f"driven.{quantity}"].shape == (3 * FRAMES,)
        for seen in ("student_codes", "teacher_codes", "constant"):
            value = found["measures"][f"r2_{quantity}_{seen}"]["value"]
            assert value < 1
            assert f"{seen.replace('_', ' ')} {value:.3f}" in page

    teachonce("export", distilled, tmp_path / "student.safetensors", "--dataset", latents)
    _, learned = read_checkpoint(distilled)
    exported = load_file(tmp_path / "student.safetensors")
    assert exported.keys() == learned.keys()
    for name, value in exported.items():
        np.testing.assert_array_equal(value, learned[name].numpy(), err_msg=name)
    with safe_open(tmp_path / "student.safetensors", "np") as stored:
        assert "latentvla" in str(stored.metadata())

"""What ``student`` offers, and what is loaded for it."""

import subprocess
import sys

import pytest

import student
from student.runs.config import RunConfig
from student.runs.evaluate import evaluate
from student.system import System
from student.training.train import train
from tests.student.recipes import small


def loaded_after(code, *arguments):
    """Return which slow or foreign packages are loaded after some code has run."""
    packages = ("torch", "zarr", "matplotlib", "transformers", "bitsandbytes", "pipeline")
    code = f"import sys\n{code}\nprint([name for name in {packages} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1]


def test_its_names_are_those_of_its_modules():
    assert (student.train, student.evaluate, student.RunConfig, student.System) == (
        train,
        evaluate,
        RunConfig,
        System,
    )
    with pytest.raises(AttributeError, match="no attribute 'teach'"):
        _ = student.teach


def test_importing_it_loads_nothing_slow():
    assert loaded_after("import student, student.commands, student.systems") == "[]"


def test_a_preset_of_drive_kd_loads_no_transformers_before_it_is_trained():
    code = "from student.runs.presets import preset\npreset('drive-kd')"
    assert loaded_after(code) == "['torch']"


def test_training_evaluating_and_reporting_load_no_teacher_and_no_transformers(dataset_path, tmp_path):
    code = (
        "from pathlib import Path\n"
        "from student import RunConfig, evaluate, train\n"
        "import student.reporting.report, student.runs.export\n"
        "data, run, config = sys.argv[1:]\n"
        "train(data, Path(run), RunConfig.model_validate_json(config), trackers=())\n"
        "evaluate(Path(run), data)\n"
        "student.reporting.report.report([Path(run)])"
    )
    config = small(epochs=1).model_dump_json()
    assert loaded_after(code, dataset_path, tmp_path / "run", config) == "['torch', 'matplotlib']"

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


def test_its_names_are_those_of_its_modules():
    assert (student.train, student.evaluate, student.RunConfig, student.System) == (
        train,
        evaluate,
        RunConfig,
        System,
    )
    with pytest.raises(AttributeError, match="no attribute 'teach'"):
        _ = student.teach


PACKAGES = ("torch", "zarr", "matplotlib", "transformers", "bitsandbytes", "pipeline")
"""Which are slow to import, or foreign."""
LOADS = f"""
import sys
from pathlib import Path

def loaded():
    print([name for name in {PACKAGES} if name in sys.modules])

import student, student.commands, student.systems
loaded()

from student.runs.presets import preset
preset("drive-kd")
loaded()

from student import RunConfig, evaluate, train
import student.reporting.report, student.runs.export
data, run, config = sys.argv[1:]
train(data, Path(run), RunConfig.model_validate_json(config), trackers=())
evaluate(Path(run), data)
student.reporting.report.report([Path(run)])
loaded()
"""


def test_nothing_slow_is_loaded_before_it_is_needed_and_no_teacher_and_no_transformers_at_all(
    dataset_path, tmp_path
):
    config = small(epochs=1).model_dump_json()
    done = subprocess.run(
        [sys.executable, "-c", LOADS, dataset_path, tmp_path / "run", config],
        capture_output=True,
        text=True,
        check=True,
    )
    imported, named, *_, trained = (line for line in done.stdout.splitlines() if line.startswith("["))
    assert imported == "[]"
    assert named == "['torch']"
    assert trained == "['torch', 'matplotlib']"

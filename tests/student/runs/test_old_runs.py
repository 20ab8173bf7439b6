"""A run of version 0.1.0 is evaluated, exported and resumed as by that version (tests/golden/run_0_1_0)."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from student.reporting.report import report
from student.runs import checkpoint
from student.runs.evaluate import evaluate
from student.runs.export import export
from student.runs.log import read_log
from student.training.train import train
from tests.paths import GOLDEN

OLD = GOLDEN / "run_0_1_0"
RECORDED = json.loads((OLD / "recorded.json").read_text())


def processor():
    """Return what decides how sums are rounded."""
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text().splitlines() if listed.exists() else []
    name = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )
    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {name}"


@pytest.fixture
def run(tmp_path):
    return shutil.copytree(OLD / "run", tmp_path / "run")


def test_it_goes_on_to_the_end_that_it_would_have_had(run):
    config = checkpoint.read_checkpoint(run)[0].config
    result = train(OLD / "dataset.zarr", run, config, trackers=())
    assert result.step == RECORDED["step"] == 12
    log = read_log(run)
    assert [line["step"] for line in log] == [line["step"] for line in RECORDED["log"]]
    for line, recorded in zip(log, RECORDED["log"], strict=True):
        assert line["train"] == pytest.approx(recorded["train"], rel=1e-4, abs=1e-6)
    if RECORDED["by"] == processor():
        files = RECORDED["tensors"]
        last = checkpoint.latest(run)
        assert {name: hashlib.sha256((last / name).read_bytes()).hexdigest() for name in files} == files
        assert log == RECORDED["log"]


def test_it_is_evaluated(run):
    found = json.loads(evaluate(run, OLD / "dataset.zarr").model_dump_json())
    for policy, masks in RECORDED["l2_m"].items():
        for mask, row in masks.items():
            for column, value in row.items():
                close = value if value is None else pytest.approx(value, rel=1e-5)
                assert found["l2_m"][policy][mask][column] == close
    for name, estimate in RECORDED["token"].items():
        similarity = found["similarity"]["planning_token"][name]
        assert similarity["value"] == pytest.approx(estimate["value"], rel=1e-5)


def test_it_is_exported(run, tmp_path):
    exported = load_file(export(run, tmp_path / "student.safetensors").file)
    average = load_file(OLD / "run/checkpoints/step-00000006/average.safetensors")
    assert exported.keys() == average.keys()
    assert all(torch.equal(exported[name], average[name]) for name in average)


def test_it_has_a_report(run):
    page = report([run]).read_text()
    assert "2 clips" in page
    assert "Losses" in page

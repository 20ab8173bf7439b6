"""Evaluation, report and export of one short run."""

import io
import json

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file

from cache_schema.errors import CheckpointError, IdentityError, RequestError
from cache_schema.store import LatentDataset
from student.build import asset
from student.checkpoint import read_checkpoint
from student.config import TrainConfig
from student.evaluate import evaluate
from student.export import export
from student.models.orion_lite import OrionLite, OrionLiteConfig
from student.models.planner import Planner, PlannerConfig, waypoints
from student.report import report
from student.train import train


@pytest.fixture(scope="module")
def run(dataset_path, tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    config = TrainConfig(hidden=16, layers=1, heads=2, feedforward=16, epochs=2, batch_size=16)
    train(dataset_path, run, config)
    return run


@pytest.fixture(scope="module")
def evaluation(run, dataset_path):
    return evaluate(run, dataset_path)


def test_trivial_drivers_have_the_error_that_the_data_imply(evaluation, dataset_path):
    # The expert of this dataset goes straight on at the speed that can_bus tells.
    speed = LatentDataset.open(dataset_path).read("clip-c", "can_bus")[:, 7]
    for mask, counted in (("complete", speed[:14]), ("orion", speed[10:14])):
        moving, standing = (evaluation.l2_m[name][mask] for name in ("constant_velocity", "stand_still"))
        assert evaluation.frames[mask] == len(counted)
        assert max(moving.values()) < 1e-5
        assert standing["up_to_1s"] == pytest.approx(0.75 * counted.mean(), rel=1e-5)
        assert standing["at_3s"] == pytest.approx(3.0 * counted.mean(), rel=1e-5)
        assert standing["at_mean"] == pytest.approx(2.0 * counted.mean(), rel=1e-5)


def test_the_teacher_is_its_planner_on_its_stored_tokens(evaluation, run, dataset_path):
    dataset = LatentDataset.open(dataset_path)
    token = torch.from_numpy(dataset.read("clip-c", "planning_token")).float()
    with torch.no_grad():
        plan = Planner.from_tensors(asset(dataset, "teacher_planner")).plan(token)
    path = waypoints(plan.offsets, torch.full((24,), 3)).numpy()
    truth = dataset.read("clip-c", "ego_trajectory").cumsum(axis=1)
    error = np.linalg.norm(path - truth, axis=-1)[:14]
    assert evaluation.l2_m["teacher"]["complete"]["at_2s"] == pytest.approx(error[:, 3].mean(), rel=1e-5)
    assert evaluation.l2_m["student"]["complete"] != evaluation.l2_m["teacher"]["complete"]


def test_it_is_written_beside_the_run_and_repeats(evaluation, run, dataset_path):
    written = json.loads((run / "evaluation.json").read_text())
    assert written == json.loads(evaluation.model_dump_json())
    assert written["l2_m"].keys() == {"student", "teacher", "constant_velocity", "stand_still"}
    assert evaluate(run, dataset_path) == evaluation


def test_the_table_shows_every_number_on_a_narrow_terminal(evaluation):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(evaluation)
    table = console.export_text()
    for masks in evaluation.l2_m.values():
        for row in masks.values():
            assert all(f" {value:.3f} " in table for value in row.values())
    assert "\N{HORIZONTAL ELLIPSIS}" not in table


def test_a_dataset_of_another_teacher_is_refused(run, write, tmp_path):
    other = write(tmp_path / "other.zarr", weights="sha256:beef")
    with pytest.raises(IdentityError, match="sha256:beef"):
        evaluate(run, other)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        evaluate(tmp_path, other)


def test_the_report_is_one_page_with_its_pictures_inside(evaluation, run):
    page = report(run).read_text()
    assert page.count("data:image/png;base64,") == 2
    assert f"<td>{evaluation.l2_m['student']['orion']['up_to_2s']:.3f}</td>" in page
    assert "://" not in page
    for name in ("losses.png", "frames.png"):
        assert (run / name).read_bytes().startswith(b"\x89PNG")


def test_a_run_that_is_not_evaluated_has_a_report_of_its_losses(dataset_path, config, tmp_path):
    with pytest.raises(RequestError, match="no finished epoch"):
        report(tmp_path)
    train(dataset_path, tmp_path, config)
    assert "Not evaluated yet" in report(tmp_path).read_text()
    evaluate(tmp_path, dataset_path)
    (tmp_path / "evaluation.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"evaluation\.safetensors"):
        report(tmp_path)


def test_an_export_is_the_students_weights_and_where_they_come_from(run, tmp_path):
    target = export(run, tmp_path / "student.safetensors")
    checkpoint, weights = read_checkpoint(run)
    exported = load_file(target)
    assert exported.keys() == weights.keys()
    assert all(torch.equal(exported[name], weights[name]) for name in weights)
    planner = PlannerConfig(token_width=32, latent=4)
    sizes = OrionLiteConfig(hidden=16, layers=1, heads=2, feedforward=16, planner=planner)
    OrionLite(sizes).load_state_dict(exported)
    with safe_open(target, "pt") as file:
        described = json.loads(file.metadata()["teachonce"])
    assert described == json.loads(checkpoint.model_dump_json())
    with pytest.raises(RequestError, match="exists already"):
        export(run, target)
    assert [path.name for path in tmp_path.iterdir()] == ["student.safetensors"]


def test_an_export_that_cannot_be_written_is_told(run, tmp_path):
    for target in (tmp_path / ("x" * 250), tmp_path / ("x" * 300)):  # names end at 255 characters
        with pytest.raises(RequestError, match="cannot be written"):
            export(run, target)
    assert list(tmp_path.iterdir()) == []

"""Published students at tiny width, in every file they come in, and their names at full width."""

import argparse
import html
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import CheckpointError, RequestError
from cache_schema.vocabulary.driving import GROUND_TRUTH_AGENTS
from cache_schema.vocabulary.orion import PLANNER_PARTS
from student.orion_lite.config import OrionLiteConfig
from student.orion_lite.model import OrionLite
from student.orion_lite.policies import teacher_planner
from student.orion_lite.presets import ORION_LITE
from student.orion_lite.published import import_student, read_published, read_run
from student.reporting.report import report
from student.runs import checkpoint
from student.runs.checkpoint import read_checkpoint
from student.runs.evaluate import evaluate
from student.runs.export import export
from student.runs.presets import changed
from student.runs.weights import load_strictly
from student.training.train import train
from tests.paths import GOLDEN

SIZES = {"hidden": 16, "layers": 2, "heads": 2, "feedforward": 32}
MANIFEST = GOLDEN / "orion_lite_student_manifest.json"


@pytest.fixture(scope="module")
def weights(dataset_path):
    torch.manual_seed(3)
    student = changed(ORION_LITE, SIZES).make_system().build(LatentDataset.open(dataset_path))
    return {name: torch.randn_like(value) for name, value in student.state_dict().items()}


def fused(weights):
    teacher = {"img_backbone.patch_embed.weight": torch.zeros(2), "map_head.x": torch.zeros(1)}
    state = teacher | {f"student_model.{name}": value for name, value in weights.items()}
    return {"state_dict": state, "meta": {"CLASSES": ("car",), "student_prefix": "student_model."}}


def training_file(weights):
    return {
        "epoch": 20,
        "global_step": 73380,
        "best_val_loss": 0.2895,
        "val_loss": None,
        "model_state_dict": weights,
        "optimizer_state_dict": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": []},
        "args": argparse.Namespace(epochs=20, out=Path("/somewhere")),
    }


def decoder_only(weights):
    return {name: value for name, value in weights.items() if not name.startswith(PLANNER_PARTS)}


def parallel(weights):
    return {f"module.{name}": value for name, value in weights.items()}


@pytest.mark.parametrize("form", [fused, training_file, dict, parallel])
def test_every_form_gives_the_same_student(form, weights, tmp_path):
    file = tmp_path / "orion_lite.pth"
    torch.save(form(weights), file)
    found = read_published(file)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)


@pytest.mark.parametrize("form", [fused, training_file])
def test_an_imported_student_is_a_run(form, weights, dataset_path, tmp_path):
    file, run = tmp_path / "orion_lite.pth", tmp_path / "run"
    torch.save(form(weights), file)
    imported = import_student(file, dataset_path, run, heads=2)
    assert {name: getattr(imported.sizes, name) for name in SIZES} == SIZES
    assert str(imported) == f"{run}: a student of 2 layers, 16 wide"
    _, stored = read_checkpoint(run)
    assert all(torch.equal(stored[name], weights[name]) for name in weights)
    measured = evaluate(run, dataset_path)
    assert measured.l2_m["student"]["complete"]["at_3s"] > 0
    exported = export(run, tmp_path / "student.safetensors").file
    assert all(torch.equal(value, weights[name]) for name, value in read_published(exported).items())
    with pytest.raises(RequestError, match="holds a run already"):
        import_student(file, dataset_path, run, heads=2)


def test_an_imported_student_has_a_report_and_trains_on(weights, dataset_path, tmp_path):
    file, run = tmp_path / "orion_lite.pth", tmp_path / "run"
    torch.save(fused(weights), file)
    import_student(file, dataset_path, run, heads=2)
    evaluate(run, dataset_path)
    assert "Open-loop errors" in report([run]).read_text()
    recipe = changed(ORION_LITE, {**SIZES, "epochs": 1, "learning_rate": 1e-6})
    with pytest.raises(CheckpointError, match="learning_rate: 5e-05 there, 1e-06 now"):
        train(dataset_path, run, recipe, trackers=())
    result = train(dataset_path, run, changed(ORION_LITE, {**SIZES, "epochs": 1}), trackers=())
    assert result.epoch == 1
    reached, trained = read_checkpoint(run)
    assert reached.step == result.step == 1
    moved = {name: (trained[name] - weights[name]).abs().max() for name in weights}
    # AdamW's first step moves a weight by no more than the learning rate and its decay.
    assert 0 < max(moved.values()) < 1e-4


def test_a_report_lists_what_could_not_be_measured(weights, write, tmp_path):
    # Of one clip, so that there are no intervals, and without other road users.
    lacking = [spec.name for spec in GROUND_TRUTH_AGENTS]
    sparse = write(tmp_path / "sparse.zarr", clips={"clip-c": ("val", 24)}, without=lacking)
    file, run = tmp_path / "student.safetensors", tmp_path / "run"
    save_file(weights, file)
    import_student(file, sparse, run, heads=2)
    found = evaluate(run, sparse)
    page = report([run]).read_text()
    assert found.missing
    assert all(html.escape(missing) in page for missing in found.missing)
    assert "Steps that collide" not in page
    assert f"<td>{found.l2_m['student']['complete']['up_to_mean']:.3f}</td>" in page


def test_a_decoder_alone_gets_the_teachers_planner(weights, dataset_path, tmp_path):
    file, run = tmp_path / "best_student_model.pth", tmp_path / "run"
    torch.save(decoder_only(weights), file)
    import_student(file, dataset_path, run, heads=2)
    _, stored = read_checkpoint(run)
    planner = teacher_planner(LatentDataset.open(dataset_path))
    assert stored.keys() == decoder_only(weights).keys() | planner.keys()
    assert all(torch.equal(stored[name], value) for name, value in planner.items())
    assert all(torch.equal(stored[name], value) for name, value in decoder_only(weights).items())


def test_the_released_names_are_161_and_117_without_the_planner():
    shapes = json.loads(MANIFEST.read_text())
    with torch.device("meta"):
        tensors = {name: torch.empty(shape) for name, shape in shapes.items()}
        student = OrionLite(OrionLiteConfig())
    load_strictly(student, tensors, assign=True)
    assert len(tensors) == 161
    assert len(decoder_only(tensors)) == 117
    with pytest.raises(CheckpointError, match=r"missing: planning_query \(1, 1, 1024\)"):
        load_strictly(student, {name: value for name, value in tensors.items() if name != "planning_query"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: {name: value for name, value in w.items() if "norm_input" not in name}, "missing: norm_"),
        (lambda w: w | {"surprise": torch.zeros(1)}, "unexpected: surprise"),
        (lambda w: w | {"output_proj.bias": torch.zeros(3)}, r"output_proj.bias is \(3,\) and should be"),
        (lambda w: {"img_backbone.x": torch.zeros(1)}, "holds no student"),
        (lambda w: w | {"planning_query": torch.zeros(())}, "the sizes of the student"),
    ],
)
def test_what_does_not_fit_is_named(change, words, weights, dataset_path, tmp_path):
    file = tmp_path / "student.safetensors"
    save_file(change(weights), file)
    with pytest.raises(CheckpointError, match=words):
        import_student(file, dataset_path, tmp_path / "run", heads=2)
    assert not (tmp_path / "run").exists()


def test_heads_that_do_not_divide_the_width(weights, dataset_path, tmp_path):
    file = tmp_path / "student.safetensors"
    save_file(weights, file)
    with pytest.raises(RequestError, match="3 attention heads do not fit"):
        import_student(file, dataset_path, tmp_path / "run", heads=3)


class Trap:
    """Would leave a file behind if it were unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


class Shell:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("trap", [Trap, Shell])
def test_nothing_in_a_file_is_executed(trap, weights, tmp_path):
    file, mark = tmp_path / "bad.pth", tmp_path / "mark"
    torch.save({"model_state_dict": weights, "args": trap(mark)}, file)
    with pytest.raises(CheckpointError, match="it holds code"):
        read_published(file)
    assert not mark.exists()


def test_damaged_files(weights, tmp_path):
    with pytest.raises(CheckpointError, match="there is no file"):
        read_published(tmp_path / "missing.pth")
    file = tmp_path / "student.pth"
    torch.save(weights, file)
    whole = file.read_bytes()
    for content in (b"", b"PK\x03\x04", whole[: len(whole) // 2], pickle.dumps({"a": 1})):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match="cannot be read as a student"):
            read_published(file)
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(CheckpointError, match="cannot be read as a student"):
        read_published(torn)
    for content in ([1, 2], 7):
        torch.save(content, file)
        with pytest.raises(CheckpointError, match="no dict of tensors"):
            read_published(file)


def test_a_fused_checkpoint_is_made_of_orion_lite_alone(weights, dataset_path, tmp_path):
    file, run = tmp_path / "student.safetensors", tmp_path / "run"
    save_file(weights, file)
    import_student(file, dataset_path, run, heads=2)
    imported, tensors = read_run(run)
    assert (imported.epoch, imported.step) == (0, 0)
    assert tensors.keys() == weights.keys()
    other = imported.model_copy(update={"config": imported.config.model_copy(update={"system": "x:Y"})})
    student = imported.config.make_system().build(LatentDataset.open(dataset_path))
    checkpoint.save(run, other, student, torch.optim.AdamW(student.parameters()))
    with pytest.raises(RequestError, match="a run of the system 'x:Y'"):
        read_run(run)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_neither_imported_nor_used(value, weights, dataset_path, tmp_path):
    file, run = tmp_path / "student.safetensors", tmp_path / "run"
    save_file(weights, file)
    import_student(file, dataset_path, run, heads=2)
    broken = {name: tensor.clone() for name, tensor in weights.items()}
    broken["planning_query"].view(-1)[0] = value
    save_file(broken, file)
    with pytest.raises(CheckpointError, match=r"1 of \d+ tensors of .* are not finite: planning_query"):
        import_student(file, dataset_path, tmp_path / "other", heads=2)
    assert not (tmp_path / "other").exists()
    reached = read_checkpoint(run)[0].model_copy(update={"step": 1})
    model = changed(ORION_LITE, SIZES).make_system().build(LatentDataset.open(dataset_path))
    load_strictly(model, broken)
    checkpoint.save(run, reached, model, torch.optim.AdamW(model.parameters()))
    for use in (
        lambda: export(run, tmp_path / "again.safetensors"),
        lambda: export(run, tmp_path / "again.onnx", dataset=dataset_path),
        lambda: read_run(run),
        lambda: evaluate(run, dataset_path),
    ):
        with pytest.raises(CheckpointError, match="are not finite: planning_query"):
            use()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "student.safetensors"]

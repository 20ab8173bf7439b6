"""What is exported: weights, a graph that onnxruntime runs, and nothing where something fails."""

import importlib.util
import json
import re
import resource
import signal

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import CheckpointError, IdentityError, RequestError
from cache_schema.storage.atomic_io import new_file, sha256_of
from student.orion_lite.config import OrionLiteConfig
from student.orion_lite.folded import FoldedStudent
from student.orion_lite.model import OrionLite
from student.orion_lite.onnx_graph import INPUTS
from student.orion_lite.planner import PlannerConfig
from student.runs import checkpoint
from student.runs.checkpoint import Checkpoint, read_checkpoint
from student.runs.export import export
from student.runs.onnx_graph import save_checked
from student.runs.provenance import TrainedOn
from tests.forked import run_forked
from tests.student.recipes import small

SIZES = {"hidden": 16, "layers": 1, "heads": 2, "feedforward": 32}
CONFIG = small(**SIZES)


@pytest.fixture(scope="module")
def dataset(dataset_path):
    return LatentDataset.open(dataset_path)


def student_of(dataset):
    torch.manual_seed(1)
    return CONFIG.make_system().build(dataset)


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    student = student_of(dataset)
    reached = Checkpoint(epoch=3, step=9, config=CONFIG, trained_on=TrainedOn.of(dataset))
    checkpoint.save(run, reached, student, torch.optim.AdamW(student.parameters()))
    return run


@pytest.fixture(scope="module")
def graph(run, dataset_path, tmp_path_factory):
    pytest.importorskip("onnxscript")
    target = tmp_path_factory.mktemp("graph") / "student.onnx"
    return target, export(run, target, dataset=dataset_path).remark


def test_an_export_holds_the_students_weights_and_their_provenance(run, tmp_path):
    target = export(run, tmp_path / "student.safetensors").file
    reached, weights = read_checkpoint(run)
    exported = load_file(target)
    assert exported.keys() == weights.keys()
    assert all(torch.equal(exported[name], weights[name]) for name in weights)
    OrionLite(OrionLiteConfig(**SIZES), PlannerConfig(token_width=32, latent=4)).load_state_dict(exported)
    with safe_open(target, "pt") as file:
        described = json.loads(file.metadata()["teachonce"])
    assert described == json.loads(reached.model_dump_json())
    with pytest.raises(RequestError, match="exists already"):
        export(run, target)
    assert [path.name for path in tmp_path.iterdir()] == ["student.safetensors"]


KILLED = """
import contextlib, hashlib, os, resource, signal, sys
from pathlib import Path

import onnx_ir
import torch

import cli
import cache_schema.storage.atomic_io as atomic_io
import student.runs.onnx_graph as onnx_graph

run, target, dataset, whole, *moments = sys.argv[1:]
if target.endswith(".onnx"):  # which takes seconds to trace
    program = torch.onnx.ONNXProgram(onnx_ir.load(whole), None)
    onnx_graph.trace = lambda *_: program


def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def arm(moment):
    if moment.isdigit():  # bytes of the file that are written
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(moment), int(moment)))
    elif moment == "written":  # and checked, but not moved into place
        atomic_io.sync_tree = kill
    elif moment == "moved":  # into place; what it was written in is still there
        rename = atomic_io.rename_durably
        atomic_io.rename_durably = lambda *paths: (rename(*paths), kill())


for moment in moments:
    Path(target).unlink(missing_ok=True)
    child = os.fork()
    if not child:
        arm(moment)
        sys.argv = ["teachonce", "export", run, target, "--dataset", dataset]
        with contextlib.redirect_stdout(sys.stderr):
            try:
                cli.app()
            except SystemExit as ended:
                os._exit(ended.code or 0)
            finally:
                os._exit(70)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    found = Path(target).exists() and hashlib.sha256(Path(target).read_bytes()).hexdigest()
    print(code, found)
"""


@pytest.mark.parametrize("ending", [".safetensors", ".onnx"])
def test_an_export_that_is_killed_is_none_or_whole(run, dataset_path, tmp_path, request, ending):
    if ending == ".onnx":
        whole, _ = request.getfixturevalue("graph")
    else:
        whole = export(run, tmp_path / "whole.safetensors").file
    target = tmp_path / "killed" / f"student{ending}"
    target.parent.mkdir()
    half = whole.stat().st_size // 2
    done = run_forked(KILLED, run, target, dataset_path, whole, half, "written", "moved", "-")
    digest = sha256_of(whole)
    expected = [f"{-signal.SIGXFSZ} False", "-9 False", f"-9 {digest}", f"0 {digest}"]
    assert done.stdout.splitlines() == expected, done.stderr
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_an_export_that_cannot_be_written_is_an_error(run, tmp_path):
    for length in (250, 300):  # names end at 255 characters
        target = tmp_path / f"{'.safetensors':x>{length}}"
        with pytest.raises(RequestError, match="cannot be written"):
            export(run, target)
    with pytest.raises(RequestError, match="a folder that does not exist"):
        export(run, tmp_path / "nowhere" / "student.safetensors")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(RequestError, match="cannot be written"):
            export(run, tmp_path / "student.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_a_folded_student_computes_what_the_student_computes(dataset):
    queries, ego = (
        torch.from_numpy(dataset.read("clip-a", name)).float() for name in ("scene_queries", "ego_token")
    )
    student = student_of(dataset).eval()
    with torch.no_grad():
        expected = student(queries, ego)
        token, offsets = FoldedStudent(student)(queries, ego)
    torch.testing.assert_close(token, expected.planning_token, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(offsets, expected.offsets, rtol=1e-5, atol=1e-5)


def test_a_folded_student_keeps_nothing_that_only_training_reads(dataset):
    student = student_of(dataset)
    whole = {name for name, _ in student.named_parameters()}
    folded = {name.removeprefix("student.") for name, _ in FoldedStudent(student).named_parameters()}
    assert {name for name in whole - folded if not name.startswith("future_distribution.")} == set()
    assert folded - whole == {"scene_proj.weight", "scene_proj.bias", "map_proj.weight", "map_proj.bias"}


def test_a_graph_computes_what_the_student_computes_for_any_number_of_frames(graph, dataset):
    import onnxruntime

    target, remark = graph
    difference = float(re.search(r"differ by (\S+) ", remark)[1])
    assert 0 < difference <= 1e-5
    session = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
    student = student_of(dataset).eval()
    for frames in (1, 2, 16):
        given = {
            name: dataset.read("clip-a", name)[:frames].astype(np.float32)
            for name in ("scene_queries", "ego_token")
        }
        token, offsets = session.run(["planning_token", "offsets"], given)
        with torch.no_grad():
            expected = student(**{name: torch.from_numpy(values) for name, values in given.items()})
        assert offsets.shape == (frames, 6, 6, 2)
        np.testing.assert_allclose(token, expected.planning_token, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(offsets, expected.offsets, rtol=1e-4, atol=1e-5)


def test_a_graph_describes_its_student_and_nothing_of_this_machine(graph, run):
    import onnx

    target, _ = graph
    assert [file.name for file in target.parent.iterdir()] == ["student.onnx"]
    model = onnx.load(target)
    onnx.checker.check_model(model)
    described = {entry.key: entry.value for entry in model.metadata_props}["teachonce"]
    assert described == read_checkpoint(run)[0].model_dump_json()
    names = {weight.name for weight in model.graph.initializer}
    assert not [name for name in names if "future_distribution" in name]
    assert b".py" not in target.read_bytes()


def test_a_graph_that_differs_is_not_left(graph, dataset, tmp_path):
    import onnx_ir

    folded = FoldedStudent(student_of(dataset))
    inputs = {name: torch.from_numpy(dataset.read("clip-a", name)[:2]).float() for name in INPUTS}
    program = torch.onnx.ONNXProgram(onnx_ir.load(graph[0]), None)
    assert save_checked(program, folded, inputs, tmp_path / "same.onnx") <= 1e-5
    norm = folded.student.norm_output
    norm.bias = torch.nn.Parameter(norm.bias + 1)
    (tmp_path / "same.onnx").unlink()
    with (
        pytest.raises(CheckpointError, match=r"differs from the student by \d"),
        new_file(tmp_path / "student.onnx") as file,
    ):
        save_checked(program, folded, inputs, file)
    assert list(tmp_path.iterdir()) == []


def test_what_a_graph_needs_is_checked_before_any_work(run, dataset_path, write, tmp_path, monkeypatch):
    target = tmp_path / "student.onnx"
    other = write(tmp_path / "other.zarr", weights="sha256:beef")
    pytest.importorskip("onnxscript")
    with pytest.raises(IdentityError, match="sha256:beef"):
        export(run, target, dataset=other)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "onnx" in name else found(name))
    with pytest.raises(
        RequestError, match="cannot be written without onnx, onnxscript, onnxruntime"
    ) as caught:
        export(run, target, dataset=dataset_path)
    assert "teachonce[export]" in caught.value.repair
    assert not target.exists()

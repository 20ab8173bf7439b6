"""A fused checkpoint of the recorded teacher and a tiny student."""

import json
import resource

import pytest
import torch
from safetensors.torch import load_file

from cache_schema.errors import CheckpointError, IdentityError, RequestError
from cache_schema.format.manifest import TeacherIdentity
from pipeline.teachers.orion.checkpoints.fuse import fuse
from pipeline.teachers.orion.checkpoints.reader import as_json, digest, read_weights
from pipeline.teachers.orion.recording import recorded_sizes
from tests.paths import GOLDEN

STUDENT = {
    name: torch.full([2] * len(shape), float(number))
    for number, (name, shape) in enumerate(
        json.loads((GOLDEN / "orion_lite_student_manifest.json").read_text()).items()
    )
}
"""The names that the evaluation of Orion-Lite asks for."""


@pytest.fixture(scope="module")
def stored():
    return load_file(GOLDEN / "orion" / "state_dict.safetensors")


@pytest.fixture(scope="module")
def checkpoint(stored, tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "Orion.pth"
    meta = {"CLASSES": ("car", "van"), "epoch": 6, "when": {torch.float32: 1}}
    torch.save(
        {"meta": meta, "state_dict": {f"module.{name}": value for name, value in stored.items()}}, path
    )
    return path


@pytest.fixture(scope="module")
def teacher(stored, checkpoint):
    described = json.loads((GOLDEN / "orion" / "meta.json").read_text())
    prompt = load_file(GOLDEN / "orion" / "inputs.safetensors")["input_ids"]
    sizes = recorded_sizes(described, stored, prompt)
    return TeacherIdentity(
        name="recorded",
        weights=digest(read_weights(checkpoint, sizes)),
        precision="fp32",
        architecture=as_json(sizes),
    )


def fused(checkpoint, target, teacher):
    count = fuse(checkpoint, STUDENT, target, teacher=teacher, described='{"epoch": 3}')
    content = torch.load(target, weights_only=True)
    assert content.keys() == {"state_dict", "meta"}
    assert len(content["state_dict"]) == count
    return content


def test_it_is_the_teachers_vision_stack_and_the_student(checkpoint, stored, teacher, tmp_path):
    content = fused(checkpoint, tmp_path / "fused.pth", teacher)
    state = content["state_dict"]
    students = {name for name in state if name.startswith("student_model.")}
    assert students == {f"student_model.{name}" for name in STUDENT}
    assert len(students) == 161
    assert all(torch.equal(state[f"student_model.{name}"], value) for name, value in STUDENT.items())

    groups = {name.partition(".")[0] for name in stored}
    gone = {"lm_head", "present_distribution", "future_distribution", "predict_model", "ego_fut_decoder"}
    assert gone < groups
    vision = {name for name in stored if name.partition(".")[0] not in gone}
    assert state.keys() - students == vision
    assert all(torch.equal(state[name], stored[name]) for name in vision)
    assert {"img_backbone", "pts_bbox_head", "map_head"} <= {name.partition(".")[0] for name in vision}


def test_the_dropped_language_model_takes_no_room(checkpoint, stored, teacher, tmp_path):
    content = fused(checkpoint, tmp_path / "fused.pth", teacher)
    kept = sum(value.nbytes for value in content["state_dict"].values())
    dropped = sum(value.nbytes for name, value in stored.items() if name.startswith("lm_head."))
    # Beside the tensors, their names twice and the alignment of each.
    beside = 500 * len(content["state_dict"])
    assert dropped > beside
    assert (tmp_path / "fused.pth").stat().st_size < kept + beside


def test_meta_keeps_plain_values_and_adds_the_description(checkpoint, teacher, tmp_path):
    assert fused(checkpoint, tmp_path / "fused.pth", teacher)["meta"] == {
        "CLASSES": ("car", "van"),
        "epoch": 6,
        "teacher_checkpoint": "Orion.pth",
        "student_prefix": "student_model.",
        "teachonce": '{"epoch": 3}',
    }


def test_another_teacher_s_checkpoint_is_refused(stored, teacher, tmp_path):
    other = tmp_path / "other.pth"
    norm = "lm_head.base_model.model.model.norm.weight"
    torch.save({"state_dict": stored | {norm: stored[norm] + 1}}, other)
    with pytest.raises(IdentityError, match="holds the weights sha256:"):
        fuse(other, STUDENT, tmp_path / "fused.pth", teacher=teacher, described="{}")
    assert [path.name for path in tmp_path.iterdir()] == ["other.pth"]


def test_what_cannot_be_fused_is_refused(checkpoint, stored, teacher, tmp_path):
    target = tmp_path / "fused.pth"

    def refused(path, identity=teacher):
        with pytest.raises((CheckpointError, RequestError)) as caught:
            fuse(path, STUDENT, target, teacher=identity, described="{}")
        assert list(tmp_path.glob("*fused*")) == []
        return str(caught.value)

    assert "is a folder" in refused(tmp_path)
    assert "does not exist" in refused(tmp_path / "nowhere.pth")
    blind = tmp_path / "blind.pth"
    torch.save({name: value for name, value in stored.items() if "img_backbone" not in name}, blind)
    assert "missing: img_backbone." in refused(blind)
    lidar_teacher = TeacherIdentity(name="other", weights="sha256:0", precision="fp32", architecture={"a": 1})
    assert "is not described by the sizes of an ORION" in refused(checkpoint, lidar_teacher)
    target.write_text("mine")
    with pytest.raises(RequestError, match="exists already"):
        fuse(checkpoint, STUDENT, target, teacher=teacher, described="{}")
    assert target.read_text() == "mine"


def test_a_full_disk_leaves_nothing(checkpoint, teacher, tmp_path):
    target = tmp_path / "fused.pth"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(RequestError, match="cannot be written"):
            fuse(checkpoint, STUDENT, target, teacher=teacher, described="{}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []

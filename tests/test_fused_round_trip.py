"""A student is fused with its teacher's vision stack, and read back from the fused file."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from cache_schema.format.manifest import TeacherIdentity
from cache_schema.vocabulary.orion import PLANNER_PARTS
from pipeline.teachers.orion.checkpoints.fuse import fuse
from pipeline.teachers.orion.checkpoints.reader import as_json, digest, read_weights
from pipeline.teachers.orion.recording import recorded_sizes
from student.orion_lite.config import OrionLiteConfig
from student.orion_lite.model import OrionLite
from student.orion_lite.planner import PlannerConfig
from student.orion_lite.published import read_published
from student.runs.weights import load_strictly
from tests.paths import GOLDEN


def test_a_fused_student_comes_back_whole(tmp_path: Path):
    stored = load_file(GOLDEN / "orion" / "state_dict.safetensors")
    checkpoint, target = tmp_path / "Orion.pth", tmp_path / "fused.pth"
    torch.save({"meta": {}, "state_dict": stored}, checkpoint)
    described = json.loads((GOLDEN / "orion" / "meta.json").read_text())
    prompt = load_file(GOLDEN / "orion" / "inputs.safetensors")["input_ids"]
    sizes = recorded_sizes(described, stored, prompt)
    teacher = TeacherIdentity(
        name="recorded",
        weights=digest(read_weights(checkpoint, sizes)),
        precision="fp32",
        architecture=as_json(sizes),
    )
    # Six layers, as the evaluation of Orion-Lite expects, around the recorded teacher's own planner.
    planner = {name: value for name, value in stored.items() if name.startswith(PLANNER_PARTS)}
    config, planner_sizes = OrionLiteConfig(hidden=16, heads=2, feedforward=16), PlannerConfig.of(planner)
    student = OrionLite(config, planner_sizes)
    student.load_planner(planner)
    fuse(checkpoint, student.state_dict(), target, teacher=teacher, described="{}")

    manifest = json.loads((GOLDEN / "orion_lite_student_manifest.json").read_text())
    found = read_published(target)
    assert found.keys() == manifest.keys()
    other = OrionLite(config, planner_sizes)
    load_strictly(other, found)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in student.state_dict().items())

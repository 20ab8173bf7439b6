"""LatentVLA-R across both packages: clips -> latent actions and camera strips -> students that drive."""

from pathlib import Path

import pytest

from cache_schema.dataset.reader import LatentDataset
from pipeline.bench2drive.source import Bench2Drive
from pipeline.extraction.run import extract
from pipeline.source import with_inputs
from pipeline.teachers.latent_action_vlm.presets import LATENTVLA_TINY
from student.reporting.report import report
from student.runs.evaluate import evaluate
from student.runs.presets import preset
from student.training.train import train


@pytest.fixture(scope="module")
def latents(clips_root: Path, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("latents") / "latents.zarr"
    source = with_inputs(Bench2Drive(clips_root), ["camera_strip_256"])
    extract(source.select(), LATENTVLA_TINY.load(None, device="cpu"), path, slots=2)
    return path


@pytest.mark.parametrize("name", ["latent-transfuser", "latentvla-fused", "latentvla-distilled"])
def test_a_student_of_the_tiny_teacher_trains_from_its_dataset_alone(name, latents, tmp_path):
    run = tmp_path / name
    train(latents, run, preset(f"{name}-tiny", {"epochs": 1}), trackers=())
    found = evaluate(run, latents, "all")
    frames = sum(LatentDataset.open(latents).clip(clip).frames for clip in found.clips)
    assert len(found.clips) == 3
    assert frames == 19
    if name == "latentvla-distilled":
        assert 0 <= found.measures["code_agreement"].value <= 1
        assert found.measures["code_kl"].value > 0
        assert "code agreement" in report([run]).read_text()

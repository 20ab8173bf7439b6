"""The whole job across both packages: clips -> teacher -> dataset -> student."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from cache_schema.dataset.reader import LatentDataset
from pipeline.bench2drive.source import Bench2Drive
from pipeline.extraction.run import extract
from pipeline.teachers.orion.presets import ORION_7B, ORION_TINY_RANDOM
from student.orion_lite.config import OrionLiteConfig
from student.orion_lite.model import OrionLite
from student.orion_lite.planner import PlannerConfig
from student.orion_lite.teacher_heads import TeacherHeads
from student.reporting.report import report
from student.runs.evaluate import evaluate
from student.runs.presets import preset
from student.training.train import train
from tests.tokens import vision_tokens


class WithoutPlanner:
    """A teacher without the 420 M random weights of its planner: this test is about tokens."""

    kind = "driving"

    def __init__(self, teacher) -> None:
        self.features, self.identity = teacher.features, teacher.identity
        self.prepare, self.collate = teacher.prepare, teacher.collate
        self.begin, self.step = teacher.begin, teacher.step
        self.assets = lambda: {"teacher_heads": teacher.assets()["teacher_heads"]}


@pytest.fixture(scope="module")
def full_width():
    """Released token width and counts, tiny everything else, random weights."""
    tiny, released = ORION_TINY_RANDOM.config, ORION_7B.config
    config = dataclasses.replace(
        tiny,
        width=released.width,
        detection=dataclasses.replace(released.detection, decoder=tiny.detection.decoder, small_ffn_width=8),
        lanes=dataclasses.replace(released.lanes, decoder=tiny.lanes.decoder),
        language=dataclasses.replace(tiny.language, width=4096, layers=1, mlp_width=8, max_positions=600),
    )
    return dataclasses.replace(ORION_TINY_RANDOM, config=config).load(None, device="cpu")


def test_tokens_are_stored_15_times_smaller_and_nothing_is_lost(full_width, clips_root, tmp_path: Path):
    """528 queries of 256 numbers and one ego token of 4096 stand for 529 tokens of 4096."""
    seen = []
    hook = full_width.model.language_model.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    path = tmp_path / "full.zarr"
    extract(Bench2Drive(clips_root).select("val"), WithoutPlanner(full_width), path)
    hook.remove()

    dataset = LatentDataset.open(path)
    (clip,) = dataset.clips
    entry = dataset.entry(clip)
    full_bytes = 529 * 4096 * 2
    stored = sum(
        file.nbytes
        for name, file in entry.files.items()
        if name.startswith(("scene_queries/", "ego_token/")) and not name.endswith("zarr.json")
    )
    # 4,333,568 bytes against 278,528 and a checksum and an index entry for either chunk.
    assert stored / entry.clip.frames - (528 * 256 + 4096) * 2 < 2 * 24
    assert full_bytes * entry.clip.frames / stored > 15.55

    queries, ego = dataset.read(clip, "scene_queries"), dataset.read(clip, "ego_token")
    spec = dataset.feature("scene_queries")
    projected = vision_tokens(queries, ego, dataset.asset("teacher_heads"), spec)
    exact = torch.cat(seen).numpy()
    assert projected.shape == exact.shape == (entry.clip.frames, 529, 4096)
    error = np.linalg.norm(projected - exact) / np.linalg.norm(exact)
    # fp16 has 11 bits: storing the tokens themselves costs as much.
    assert error < 3e-4
    assert np.linalg.norm(exact.astype(np.float16) - exact) / np.linalg.norm(exact) < 3e-4

    # The student reads either: folded queries or whole tokens.
    sizes = OrionLiteConfig(hidden=64, layers=1, heads=4, feedforward=64)
    with torch.device("meta"):
        student = OrionLite(sizes, PlannerConfig(token_width=4096))
    student.input_proj = torch.nn.Linear(4096, 64)
    student.norm_input = torch.nn.LayerNorm(64)
    maps = {
        name: torch.from_numpy(value).float()
        for name, value in dataset.derivation_maps("vision_tokens").items()
    }
    student.heads = TeacherHeads(dataset.derivations["vision_tokens"], maps)
    folded = student.embed_queries(torch.from_numpy(queries).float(), torch.from_numpy(ego).float())
    unfolded = student.embed_tokens(torch.from_numpy(projected))
    torch.testing.assert_close(folded, unfolded, rtol=0, atol=1e-4)


def test_a_student_trains_from_the_features_of_the_tiny_teacher(clips_root, tmp_path: Path):
    teacher = ORION_TINY_RANDOM.load(None, device="cpu")
    path, run = tmp_path / "latents.zarr", tmp_path / "run"
    extract(Bench2Drive(clips_root).select(), teacher, path, slots=2)
    config = preset("demo", {"epochs": 2})
    result = train(path, run, config)
    assert result.epoch == 2
    measured = evaluate(run, path, "all")
    assert set(measured.l2_m) >= {"student", "teacher"}
    page = report([run])
    assert "<svg" in page.read_text()

"""Questions through the ordinary commands, with a teacher that only counts letters and images."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from cache_schema.dataset.reader import LatentDataset
from cache_schema.format.features import FeatureSpec
from cache_schema.format.manifest import TeacherIdentity
from cache_schema.terminal import USER_ERROR
from cache_schema.vocabulary.attention import QUESTIONS
from cli import app

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.questions.sample import QuestionSample

LETTERS = FeatureSpec(name="letters", shape=(3,), axes=("part",), dtype="float32", role="target")


class Counting:
    kind = "questions"
    features = (LETTERS,)
    identity = TeacherIdentity(name="counting", weights="none", precision="fp32")

    def load(self, checkpoint: Path | None, **options: object) -> Counting:
        return self

    def prepare(self, sample: QuestionSample) -> Tensor:
        return torch.tensor(
            [len(sample.question), len(sample.answer), len(sample.images)], dtype=torch.float32
        )

    def collate(self, inputs: Sequence[Tensor | None]) -> Tensor:
        return torch.stack([torch.zeros(3) if row is None else row for row in inputs])

    def begin(self, slots: int) -> None:
        return None

    def step(self, batch: Tensor, state: None) -> tuple[dict[str, Tensor], None]:
        return {"letters": batch}, state

    def assets(self) -> dict[str, dict[str, Tensor]]:
        return {}


COUNTING = Counting()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    entries = []
    for scene, images in (("one", 2), ("two", 1), ("three", 1)):
        (folder / scene).mkdir(parents=True)
        for number in range(images):
            (folder / scene / f"{number}.png").write_text(f"{scene} {number}")
        shown = [f"{scene}/{number}.png" for number in range(images)]
        entries += [
            {
                "question": f"{scene}?",
                "answer": "x" * length,
                "images": shown,
                "type": "plan",
                "split": "train",
            }
            for length in (1, 2)
        ]
    (folder / "q.json").write_text(json.dumps(entries))
    return folder


def extract(dataset: Path, data: Path):
    names = ("--source", "drive-kd", "--teacher", f"{__name__}:COUNTING")
    return CliRunner().invoke(app, ["extract", str(dataset), "--data", str(data), *names])


def test_extract_verify_and_extract_again(tmp_path, data):
    path = tmp_path / "d.zarr"
    (data / "two" / "0.png").unlink()
    done = extract(path, data)
    assert done.exit_code == USER_ERROR, done.output
    assert "an image of clip two cannot be read" in done.output
    (data / "two" / "0.png").write_text("two 0")
    done = extract(path, data)
    assert done.exit_code == 0, done.output
    dataset = LatentDataset.open(path)
    assert dataset.clips == ("one", "three", "two")
    names = [spec.name for spec in QUESTIONS]
    assert {spec.name for spec in dataset.manifest.features} == {*names, "letters"}
    values = {name: dataset.read("one", name) for name in (*names, "letters")}
    assert values["letters"].tolist() == [[4, 1, 2], [4, 2, 2]]
    assert values["capability"].tolist() == [2, 2]
    assert values["question_id"].tolist() == [0, 1]
    digests = [hashlib.sha256(f"one {number}".encode()).digest() for number in range(2)]
    for found in values["image_digests"]:
        np.testing.assert_array_equal(found, [list(digest) for digest in digests])
    assert CliRunner().invoke(app, ["verify", str(path)]).exit_code == 0
    # An image, or an answer, that has changed since is noticed.
    (data / "three" / "0.png").write_text("another")
    done = extract(path, data)
    assert done.exit_code == USER_ERROR
    assert "three" in done.output
    assert "raw files are others" in done.output


def test_inspect_names_no_rate(tmp_path, data):
    extract(tmp_path / "d.zarr", data)
    shown = CliRunner().invoke(app, ["inspect", str(tmp_path / "d.zarr")]).output
    assert "questions of q.json, licence unknown" in shown

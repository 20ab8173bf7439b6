"""Inputs of students that a source stores beside the features of any teacher."""

from __future__ import annotations

import dataclasses
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import ClipError, RequestError
from cache_schema.format.features import FeatureSpec
from cache_schema.integrity.verify import verify
from pipeline.extraction.estimate import frames_per_second, plan
from pipeline.extraction.run import extract
from pipeline.source import Selection, with_inputs
from tests.toy.source import Text, Texts
from tests.toy.teacher import TOY, ToyTeacher

if TYPE_CHECKING:
    from pathlib import Path

BYTES = FeatureSpec(name="bytes", shape=(4,), axes=("byte",), dtype="uint8", role="input")
_memory = threading.local()


class TextWithBytes(Text):
    """Its inputs lie in memory that the next sample of the same thread overwrites."""

    def inputs(self, sample: str) -> dict[str, np.ndarray]:
        if "nothing" in sample:
            raise ClipError("there are no bytes", expected="some", repair="write some")
        if not hasattr(_memory, "buffer"):
            _memory.buffer = np.zeros(4, dtype=np.uint8)
        _memory.buffer[:] = np.frombuffer(sample.encode().ljust(4)[:4], dtype=np.uint8)
        return {"bytes": _memory.buffer}


class TextsWithBytes(Texts):
    inputs: tuple[FeatureSpec, ...] = ()

    def with_inputs(self, names: list[str]) -> TextsWithBytes:
        if names != ["bytes"]:
            raise RequestError(f"there is no {names}", expected="bytes", repair="ask for bytes")
        chosen = TextsWithBytes(self.root)
        chosen.inputs = (BYTES,)
        return chosen

    def select(self, split="all") -> Selection:
        selection = super().select(split)
        if not self.inputs:
            return selection
        clips = tuple(TextWithBytes(clip.path, clip.index) for clip in selection.clips)
        return dataclasses.replace(selection, source=self, clips=clips)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    root = tmp_path / "texts"
    root.mkdir()
    for name in ("apple", "banana", "cherry"):
        (root / f"{name}.txt").write_text("".join(f"{number}{name}\n" for number in range(20)))
    return root


def test_every_sample_has_its_own(texts, tmp_path):
    source = with_inputs(TextsWithBytes(texts), ["bytes"])
    path = tmp_path / "x.zarr"
    cost = plan(path, source.select(), TOY)
    report = extract(source.select(), ToyTeacher(), path, slots=2)
    assert (report.failed, report.frames) == ((), 60)
    assert verify(path).problems == ()
    dataset = LatentDataset.open(path)
    for name in ("apple", "banana", "cherry"):
        lines = [f"{number}{name}".encode()[:4] for number in range(20)]
        assert [bytes(row) for row in dataset.read(name, "bytes")] == lines
        assert dataset.read(name, "length").tolist() == [len(f"{number}{name}") for number in range(20)]
    features = [spec.name for spec in dataset.manifest.features]
    assert features == [spec.name for spec in cost.features]
    assert features.count("bytes") == 1


def test_measuring_runs_them_too(texts):
    source = with_inputs(TextsWithBytes(texts), ["bytes"])
    assert frames_per_second(source.select(), ToyTeacher(), slots=2) > 0


def test_not_asked_for_is_not_stored(texts, tmp_path):
    path = tmp_path / "x.zarr"
    extract(TextsWithBytes(texts).select(), ToyTeacher(), path)
    assert LatentDataset.open(path).manifest.feature("bytes") is None


def test_a_sample_without_its_inputs_leaves_out_its_clip_alone(texts, tmp_path):
    (texts / "banana.txt").write_text("0banana\n1banana\nnothing\n3banana\n")
    path = tmp_path / "x.zarr"
    source = with_inputs(TextsWithBytes(texts), ["bytes"])
    report = extract(source.select(), ToyTeacher(), path, slots=2)
    assert [(failure.clip, failure.reason) for failure in report.failed] == [("banana", "there are no bytes")]
    assert LatentDataset.open(path).clips == ("apple", "cherry")
    assert verify(path).problems == ()

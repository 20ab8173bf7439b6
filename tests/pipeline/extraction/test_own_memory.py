"""Sources and teachers that use their memory again: what is written is what was said."""

import threading
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch

from cache_schema.dataset.reader import LatentDataset
from pipeline.extraction.own_memory import own
from pipeline.extraction.run import extract
from pipeline.source import Selection
from tests.toy.source import Text, Texts
from tests.toy.teacher import ToyTeacher

kept = threading.local()


class Pair(NamedTuple):
    text: str
    codes: np.ndarray


@dataclass(frozen=True, slots=True)
class Frame:
    pair: Pair
    tensor: torch.Tensor


def test_everything_that_a_sample_may_be_made_of_is_copied():
    array, tensor = np.arange(3), torch.arange(3)
    frame = Frame(Pair("a", array), tensor[1:])
    copied = own({"frame": frame, "list": [array], "tuple": (tensor, None)})
    array[:], tensor[:] = 9, 9
    assert copied["frame"].pair.text == "a"
    assert copied["frame"].pair.codes.tolist() == copied["list"][0].tolist() == [0, 1, 2]
    assert copied["frame"].tensor.tolist() == [1, 2]
    assert copied["tuple"][0].tolist() == [0, 1, 2]
    assert copied["tuple"][1] is None
    untouched = object()
    assert own(untouched) is untouched
    assert own(Frame) is Frame


def buffer(name: str, *shape: int) -> np.ndarray:
    """The one array of this name and shape that a thread has."""
    return kept.__dict__.setdefault(f"{name}{shape}", np.zeros(shape, np.int32))


class KeepingText(Text):
    """Answers in arrays that it keeps, one set a thread, as decoders do."""

    def ground_truth(self):
        numbers = buffer("numbers", self.samples)
        numbers[:] = 100 * self.index + np.arange(self.samples)
        return {"line_number": numbers}

    def sample(self, index):
        codes = buffer("codes", 8)
        codes[:] = [ord(letter) for letter in self.lines[index].ljust(8)[:8]]
        return codes


class KeepingTexts(Texts):
    def select(self, split="all"):
        clips = super().select(split).clips
        return Selection(self, tuple(KeepingText(clip.path, clip.index) for clip in clips))


class ViewingTeacher(ToyTeacher):
    """Its inputs are views of the sample; its outputs are views of one tensor, which is its state."""

    def prepare(self, sample):
        return torch.from_numpy(sample)

    def collate(self, inputs):
        return torch.stack([torch.zeros(8, dtype=torch.int32) if row is None else row for row in inputs])

    def begin(self, slots):
        return torch.zeros(slots, 14)

    def step(self, batch, state):
        state[:, :8] = batch / 128
        state[:, 8:] = batch[:, :1]
        return {"letters": state[:, :8], "length": state[:, 8], "vowels": state[:, 9:]}, state


def test_sources_and_teachers_may_use_their_memory_again(tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    for number, name in enumerate(("a", "b", "c", "d")):
        lines = [chr(ord("a") + number) + letter for letter in "bcdefghijklm"]
        (texts / f"{name}.txt").write_text("\n".join(lines) + "\n")
    path = tmp_path / "x.zarr"
    assert extract(KeepingTexts(texts).select(), ViewingTeacher(), path, slots=2).failed == ()
    dataset = LatentDataset.open(path)
    for number, name in enumerate(dataset.clips):
        assert dataset.read(name, "line_number").tolist() == list(range(100 * number, 100 * number + 12))
        letters = (dataset.read(name, "letters")[:, :2] * 128).tolist()
        assert letters == [[ord("a") + number, ord(letter)] for letter in "bcdefghijklm"]
        assert dataset.read(name, "length").tolist() == [ord("a") + number] * 12


@pytest.mark.parametrize("fresh", [True, False])
def test_inputs_are_collated_as_they_were_prepared_where_a_teacher_says_that_they_are_fresh(tmp_path, fresh):
    """Fresh ones may lie in pinned memory, which no copy would."""
    prepared, collated = [], []

    class FreshTeacher(ToyTeacher):
        fresh_inputs = fresh

        def prepare(self, sample):
            prepared.append(super().prepare(sample))
            return prepared[-1]

        def collate(self, inputs):
            collated.extend(row for row in inputs if row is not None)
            return super().collate(inputs)

    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("one\ntwo\n")
    extract(Texts(tmp_path / "texts").select(), FreshTeacher(), tmp_path / "x.zarr")
    assert len(collated) == 2
    assert all(any(inputs is other for other in prepared) == fresh for inputs in collated)

"""Ragged features, of a teacher and of a source, and tags beyond those of format 1."""

import numpy as np
import torch
from rich.console import Console

from cache_schema.dataset.reader import LatentDataset
from cache_schema.format.features import FeatureSpec
from cache_schema.integrity.verify import verify
from pipeline.extraction.estimate import plan
from pipeline.extraction.run import extract
from pipeline.source import Selection
from tests.toy.source import LINE_NUMBER, Text, Texts
from tests.toy.teacher import FEATURES, ToyTeacher

CODES = FeatureSpec(name="codes", shape=(None,), axes=("letter",), dtype="int32", role="target")
WORDS = FeatureSpec(name="word_lengths", shape=(None,), axes=("word",), dtype="int16", role="truth")
LINES = ["an apple a day", "", "keeps"]


class TaggedText(Text):
    @property
    def tags(self):
        return {"author": "nobody"}

    def ground_truth(self):
        words = [np.array([len(word) for word in line.split()], np.int16) for line in self.lines]
        return {**super().ground_truth(), "word_lengths": words}


class RaggedTexts(Texts):
    ground_truth = (LINE_NUMBER, WORDS)
    tags = ("author",)

    def select(self, split="all"):
        clips = super().select(split).clips
        return Selection(self, tuple(TaggedText(clip.path, clip.index) for clip in clips))


class RaggedTeacher(ToyTeacher):
    features = (*FEATURES, CODES)

    def prepare(self, sample):
        return {**super().prepare(sample), "text": sample}

    def collate(self, inputs):
        rows = [self.prepare("") if row is None else row for row in inputs]
        stacked = {spec.name: torch.stack([row[spec.name] for row in rows]) for spec in FEATURES}
        return stacked | {"text": [row["text"] for row in rows]}

    def step(self, batch, state):
        codes = [
            torch.tensor([ord(letter) for letter in text], dtype=torch.int32) for text in batch.pop("text")
        ]
        return {**batch, "codes": codes}, state


def test_ragged_features_are_written_and_read(tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("\n".join(LINES) + "\n")
    (tmp_path / "texts" / "b.txt").write_text("one line\n")
    selection, path = RaggedTexts(tmp_path / "texts").select(), tmp_path / "x.zarr"
    report = extract(selection, RaggedTeacher(), path, slots=2)
    assert report.failed == ()
    assert verify(path).problems == ()
    dataset = LatentDataset.open(path)
    assert dataset.manifest.format_version == 2
    assert dataset.clip("a").tags == {"author": "nobody"}
    assert ["".join(map(chr, codes)) for codes in dataset.read("a", "codes", [0, 1, 2])] == LINES
    assert [lengths.tolist() for lengths in dataset.read("a", "word_lengths", [0, 1, 2])] == [
        [2, 5, 1, 3],
        [],
        [5],
    ]
    assert dataset.read("a", "length").tolist() == [14, 0, 5]


def test_the_size_of_a_ragged_feature_varies(tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("x\n")
    console = Console(width=120)
    with console.capture() as captured:
        console.print(plan(tmp_path / "x.zarr", RaggedTexts(tmp_path / "texts").select(), RaggedTeacher()))
    rows = {line.split("│")[1].strip(): line for line in captured.get().splitlines() if line.count("│") > 4}
    assert rows["codes"].count("varies") == 2
    assert "varies" not in rows["letters"]
    # 8 + 1 + 5 float32 and an int32.
    assert "60 + varies" in rows["together"]


HOLDER = FeatureSpec(name="holder", shape=(), axes=(), dtype="int32", role="target")
SHARED = CODES.model_copy(update={"name": "shared_codes", "stored_at": "holder"})


class SharingTeacher(RaggedTeacher):
    """Lines that are equal to the one before share its codes; an ``astray`` one points ahead."""

    features = (*FEATURES, HOLDER, SHARED)

    def __init__(self, astray=None):
        self.astray = astray

    def begin(self, slots):
        return [("", -1, -1)] * slots  # of each: the last line, its holder, its number

    def step(self, batch, state):
        texts = batch["text"]
        found, codes = super().step(batch, None)[0], []
        holders = []
        for slot, text in enumerate(texts):
            last, holder, number = state[slot]
            number += 1
            holder = holder if text == last and holder >= 0 else number
            state[slot] = (text, holder, number)
            holders.append(number + 1 if text == self.astray else holder)
            own = found["codes"][slot] if holder == number else torch.empty(0, dtype=torch.int32)
            codes.append(own)
        del found["codes"]
        return {**found, "holder": torch.tensor(holders), "shared_codes": codes}, state


def test_values_that_samples_share_are_written_once(tmp_path):
    lines = ["same", "same", "other", "other", "other", "same"]
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("\n".join(lines) + "\n")
    path = tmp_path / "x.zarr"
    report = extract(Texts(tmp_path / "texts").select(), SharingTeacher(), path, slots=1)
    assert report.failed == ()
    assert verify(path).problems == ()
    dataset = LatentDataset.open(path)
    assert dataset.read("a", "holder").tolist() == [0, 0, 2, 2, 2, 5]
    assert dataset.entry("a").values == {"shared_codes": len("sameothersame")}
    assert ["".join(map(chr, codes)) for codes in dataset.read("a", "shared_codes")] == lines


def test_a_clip_whose_samples_share_wrongly_is_left_out_by_name(tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("one\nastray\ntwo\n")
    report = extract(
        Texts(tmp_path / "texts").select(), SharingTeacher("astray"), tmp_path / "x.zarr", slots=1
    )
    (left,) = report.failed
    assert left.clip == "a"
    assert "'shared_codes': frame 1 has its value at frame 2, which is no frame up to it" in str(left)
    assert LatentDataset.open(tmp_path / "x.zarr").clips == ()

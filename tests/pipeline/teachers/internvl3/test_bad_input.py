"""What cannot be right ends a command with a reason and a repair, or costs the clips that are named.

Beside what is here: an image that is missing, and one that changed before the same extraction goes on, in
tests/pipeline/questions/test_extraction.py.
"""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from cache_schema.dataset.reader import LatentDataset
from cache_schema.terminal import USER_ERROR
from cli import app
from pipeline.teachers.internvl3.model.network import random_weights
from pipeline.teachers.internvl3.presets import INTERNVL3_TINY_VISION, TOKENIZER
from tests.pipeline.teachers.internvl3.conftest import remote_config

SCENES = ("a", "b", "c")
LONG = "And what does that mean for the ego vehicle, if anything at all? " * 3
PARTS = ("\n  expected: ", "\n  to do: ")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three scenes with an image and two questions each, one of which is long."""
    folder, entries = tmp_path / "data", []
    folder.mkdir()
    for place, scene in enumerate(SCENES):
        Image.new("RGB", (32, 18), (80 * place, 90, 10)).save(folder / f"{scene}.png")
        for question in ("Where to?", LONG if scene == "b" else "Why?"):
            entry = {"question": question, "answer": "Left.", "type": "planning", "split": "train"}
            entries.append({**entry, "scene": scene, "images": [f"{scene}.png"]})
    write(folder, entries)
    return folder


def write(folder: Path, entries: list[dict]) -> None:
    (folder / "questions.json").write_text(json.dumps(entries))


def entries_of(folder: Path) -> list[dict]:
    return json.loads((folder / "questions.json").read_text())


def teachonce(*arguments: object):
    return CliRunner().invoke(app, [*map(str, arguments)])


def extract(path: Path, data: Path, *options: object, teacher: str = "internvl3-tiny"):
    return teachonce("extract", path, "--data", data, "--source", "drive-kd", "--teacher", teacher, *options)


def extracted(path: Path, data: Path, *options: object, teacher: str = "internvl3-tiny") -> Path:
    done = extract(path, data, *options, teacher=teacher)
    assert done.exit_code == 0, done.output
    return path


def student_of(path: Path, data: Path, *options: object) -> Path:
    return extracted(path, data, *options, teacher="internvl3-tiny-vision")


def refused(done) -> str:
    """Return what was said; it has three parts."""
    assert done.exit_code == USER_ERROR, done.output
    for part in PARTS:
        assert part in done.output
    return done.output


def left_out(done) -> str:
    """Return what was said of clips that were left out: why, and in a table what to do."""
    assert done.exit_code == USER_ERROR, done.output
    assert "why it was left out" in done.output
    return done.output


def train(attention: Path, own: Path):
    run = ("--run", attention.with_name("run"), "--preset", "drive-kd-tiny", "--tracker", "none")
    return teachonce("train", attention, "--with", own, *run)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """The tiny student's random weights as a folder."""
    preset = INTERNVL3_TINY_VISION
    folder = tmp_path / "student"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(remote_config(preset.sizes)))
    shutil.copy(TOKENIZER, folder / "tokenizer.json")
    save_file(dict(random_weights(preset.sizes, 0)), folder / "model.safetensors")
    return folder


def test_an_image_that_changed_between_the_two_extractions(data, tmp_path):
    attention = extracted(tmp_path / "a.zarr", data)
    Image.new("RGB", (32, 18), (1, 2, 3)).save(data / "b.png")
    own = student_of(tmp_path / "b.zarr", data)
    said = refused(train(attention, own))
    assert "'image_digests' of clip 'b' differs in frame 0 and 1 more of 2; 1 of 3 clips differ" in said
    assert not (tmp_path / "run").exists()


def test_a_question_without_an_answer_is_counted_and_all_others_are_there(data, tmp_path):
    entries = entries_of(data)
    entries[3]["answer"] = " "
    write(data, entries)
    done = extract(tmp_path / "a.zarr", data)
    assert done.exit_code == 0
    assert "entries without an answer in text are left out: 1, the first is entry 3" in done.output
    dataset = LatentDataset.open(tmp_path / "a.zarr")
    assert [len(dataset.read(clip, "question_id")) for clip in dataset.clips] == [2, 1, 2]


def test_an_unknown_capability_shows_those_that_are_known(data, tmp_path):
    entries = entries_of(data)
    entries[2]["type"] = "trivia"
    write(data, entries)
    said = refused(extract(tmp_path / "a.zarr", data))
    assert "entry 2" in said
    assert "'trivia'" in said
    assert "perception, perceptual, perceive, per, p -> perception" in said
    assert not (tmp_path / "a.zarr").exists()


def test_a_tokenizer_of_another_family(data, checkpoint, tmp_path):
    attention = extracted(tmp_path / "a.zarr", data)
    described = json.loads(TOKENIZER.read_text())
    merges = described["model"]["merges"]
    described["model"]["merges"] = merges[: len(merges) // 2]
    (checkpoint / "tokenizer.json").write_text(json.dumps(described))
    own = student_of(tmp_path / "b.zarr", data, "--checkpoint", checkpoint)
    said = refused(train(attention, own))
    assert "of clip 'a' differs in frame 0 and 1 more of 2; 3 of 3 clips differ" in said
    assert "token ids" in said

    lacking = json.dumps(described).replace("<img>", "<picture>")
    (checkpoint / "tokenizer.json").write_text(lacking)
    done = extract(tmp_path / "c.zarr", data, "--checkpoint", checkpoint, teacher="internvl3-tiny-vision")
    assert "has no <img>" in refused(done)
    assert not (tmp_path / "c.zarr").exists()


def test_attention_for_a_student_of_another_depth(data, tmp_path):
    attention = extracted(tmp_path / "a.zarr", data, "--set", "student_layers=4")
    said = refused(train(attention, student_of(tmp_path / "b.zarr", data)))
    assert "for a student of 4 layers" in said
    assert "--set student_layers=3" in said


def test_embeddings_too_large_for_float16(data, checkpoint, tmp_path):
    weights = dict(random_weights(INTERNVL3_TINY_VISION.sizes, 0))
    weights["model.multi_modal_projector.linear_2.bias"] += 1e5
    save_file(weights, checkpoint / "model.safetensors")
    student = ("--checkpoint", checkpoint)
    done = extract(tmp_path / "b.zarr", data, *student, teacher="internvl3-tiny-vision")
    said = left_out(done)
    for clip in SCENES:
        assert f"left out {clip}: clip '{clip}', feature 'image_embeddings', frame 0" in said
    assert "do not fit float16" in said
    assert not LatentDataset.open(tmp_path / "b.zarr").clips
    own = student_of(tmp_path / "f.zarr", data, *student, "--set", "stored=float32")
    assert float(LatentDataset.open(own).read("a", "image_embeddings")[0].max()) > 65504


def test_a_question_that_is_too_long_costs_its_clip_until_it_may_be_longer(data, tmp_path):
    whole = LatentDataset.open(extracted(tmp_path / "whole.zarr", data))
    lengths = {clip: max(map(len, whole.read(clip, "token_ids"))) for clip in SCENES}
    limit = max(lengths["a"], lengths["c"])
    assert limit < lengths["b"]
    path = tmp_path / "a.zarr"
    said = left_out(extract(path, data, "--set", f"max_tokens={limit}"))
    named = f"question 3 about frame 0 of b has {lengths['b']} tokens, and max_tokens is {limit}"
    assert f"left out b: {named}" in said
    assert "--set max_tokens=" in said
    assert LatentDataset.open(path).clips == ("a", "c")
    extracted(path, data)
    found = LatentDataset.open(path)
    assert {clip: found.entry(clip).digest for clip in found.clips} == {
        clip: whole.entry(clip).digest for clip in SCENES
    }

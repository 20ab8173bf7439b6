"""Embeddings of the student's frozen tower, and pixels, against the recorded set."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from tests.pipeline.teachers.internvl3.conftest import RECORDED, close
from tests.pipeline.teachers.internvl3.test_teacher import run


@pytest.fixture(scope="module")
def vision(recorded, student_folder):
    return recorded.student().load(student_folder, device="cpu")


@pytest.fixture
def asked(recorded):
    one, two = recorded.about(1, 2), recorded.about(0, 2)
    other = dataclasses.replace(two, question="And now?")
    return [two, other, one, two, dataclasses.replace(two, clip="another")]


def test_recorded_embeddings(recorded, vision):
    compared = 0
    for sample in recorded.meta["samples"]:
        if (wanted := recorded.inputs.get(f"{sample['key']}.student_image_embeds")) is not None:
            (found,) = run(vision, [recorded.sample(sample)])
            assert close(found["image_embeddings"], wanted) < 1e-5
            compared += 1
    assert compared


@pytest.mark.parametrize("embeds", [True, False])
def test_images_of_neighbours_are_held_once(recorded, student_folder, asked, embeds):
    teacher = recorded.student(embeds=embeds).load(student_folder, device="cpu")
    name = "image_embeddings" if embeds else "image_pixels"
    found = run(teacher, asked)
    assert [int(row["images_sample"]) for row in found] == [0, 0, 2, 3, 0]
    assert [len(row[name]) for row in found] == [2, 0, 1, 2, 2]
    assert torch.equal(found[0][name], found[3][name])
    assert {*found[0]} == {spec.name for spec in teacher.features}
    shape = next(spec for spec in teacher.features if spec.name == name).shape
    assert all(row[name].shape[1:] == shape[1:] for row in found)


def test_pixels_become_the_recorded_ones(recorded, student_folder):
    teacher = recorded.student(embeds=False).load(student_folder, device="cpu")
    sample = recorded.meta["samples"][0]
    (found,) = run(teacher, [recorded.sample(sample)])
    normalised = teacher._reader.recipe.normalise(found["image_pixels"])
    assert torch.equal(normalised, recorded.inputs[f"{sample['key']}.pixel_values"])


@pytest.mark.parametrize("embeds", [True, False])
def test_the_whole_student_goes_along(recorded, student_folder, embeds):
    teacher = recorded.student(embeds=embeds).load(student_folder, device="cpu")
    assets = teacher.assets()
    wanted = load_file(RECORDED / "student_hf_names.safetensors")
    assert assets["student"].keys() == wanted.keys()
    assert all(torch.equal(assets["student"][name], wanted[name]) for name in wanted)
    content = bytes(assets["tokenizer"]["tokenizer_json"].tolist())
    assert content == (RECORDED / "tokenizer.json").read_bytes()


def test_too_large_an_embedding_becomes_infinity(recorded, student_folder, asked):
    half = recorded.student(stored="float16").load(student_folder, device="cpu")
    (found,) = run(half, asked[:1])
    assert found["image_embeddings"].dtype == torch.float16
    assert found["image_embeddings"].isfinite().all()
    half.model.multi_modal_projector.linear_2.bias += 1e5
    (found,) = run(half, asked[:1])
    assert found["image_embeddings"].isinf().any()


def test_idle_slots(vision, asked):
    state = vision.begin(2)
    features, state = vision.step([None, vision.prepare(asked[0])], state)
    assert len(features["image_embeddings"][1]) == 2
    features, state = vision.step([vision.prepare(asked[0]), vision.prepare(asked[1])], state)
    assert [len(row) for row in features["image_embeddings"]] == [2, 0]
    assert features["images_sample"].tolist() == [0, 0]


def test_a_question_without_images(vision, asked):
    (found,) = run(vision, [dataclasses.replace(asked[0], images=())])
    assert len(found["image_embeddings"]) == 0


def test_both_datasets_hold_the_same_sequences(recorded, vision, teacher_folders, asked):
    teacher = recorded.teacher(0).load(teacher_folders[0], device="cpu")
    assert teacher.identity.preprocessing == vision.identity.preprocessing
    for one, other in zip(run(vision, asked), run(teacher, asked), strict=True):
        for name in ("token_ids", "image_runs", "answer_start"):
            assert torch.equal(one[name], other[name])

"""What the system reads, and which datasets it refuses."""

import numpy as np
import pytest
import torch
from safetensors.torch import save

from cache_schema.dataset.join import open_dataset
from cache_schema.errors import CheckpointError, DatasetError, IdentityError, RequestError
from cache_schema.vocabulary.attention import QUESTIONS, SEQUENCE, embedding_features
from student.drive_kd.system import DriveKdSystem
from student.loading.batches import LatentSamples
from student.runs.presets import preset
from student.step import StepContext
from student.systems import PRESETS
from tests.student.drive_kd.datasets import (
    DEPTH,
    GROUPS,
    PREPROCESSING,
    TOKENS,
    WIDTH,
    write,
    write_teacher,
)
from tests.student.drive_kd.recorded import model_arguments, tensors

ALL = {"answer_ce": {}, "perception": {}, "reasoning": {}, "planning": {}}
INPUTS = ["answer_start", "capability", "image_embeddings", "image_runs", "token_ids"]
GROUP_FEATURES = ["attention_groups", "attention_groups_prefix", "attention_groups_to_prefix"]


def build(*paths, losses=ALL, **student):
    return DriveKdSystem(student, losses).build(open_dataset(*paths))


def test_what_no_share_of_pi_needs_is_not_read():
    assert DriveKdSystem({}, {"answer_ce": {}}).required_features() == tuple(INPUTS)
    everything = DriveKdSystem({}, ALL).required_features()
    assert set(everything) == {*INPUTS, *GROUP_FEATURES, "attention_first", "attention_penultimate"}
    pi = {"perception": [1, 0, 0], "reasoning": [1, -1, 0], "planning": [0, 0, 0]}
    some = DriveKdSystem({"pi": pi}, ALL).required_features()
    assert set(some) == {*INPUTS, "attention_first"}
    pixels = DriveKdSystem({"trainable": "all"}, {"answer_ce": {}}).required_features()
    assert set(pixels) == {*INPUTS, "image_pixels"} - {"image_embeddings"}


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith("drive-kd")])
def test_every_preset_is_complete(name):
    config = preset(name)
    assert config.completed(config.make_system()) == config
    assert config.training.clip_norm is None
    assert config.training.partial_batch == "fraction"


def test_the_answer_is_always_learned():
    with pytest.raises(RequestError, match="do not have answer_ce"):
        DriveKdSystem({}, {"perception": {}})
    with pytest.raises(RequestError, match=r"losses.reasoning.weight"):
        DriveKdSystem({}, {**ALL, "reasoning": {"weight": 0}})


def test_terms_that_do_not_exist_for_a_sample_are_0_and_have_no_gradient(teacher_path, student_path):
    system = DriveKdSystem({}, {name: {"weight": 3.0} for name in ALL})
    dataset = open_dataset(teacher_path, student_path)
    model = system.build(dataset)
    samples = LatentSamples(dataset, "train", system.required_features(), device=torch.device("cpu"))
    alone = []
    for row, capability in enumerate(("perception", "reasoning", "planning")):
        context = StepContext(0, 0, samples=3, positions=np.array([row]), device=torch.device("cpu"))
        losses = system.training_step(model, samples.read(np.array([row])), context).losses
        assert {name for name, loss in losses.items() if loss.requires_grad} == {"answer_ce", capability}
        assert all(losses[name] == 0 for name in ALL if name not in ("answer_ce", capability))
        assert context.factors == {name: 3.0 * losses[name].requires_grad for name in ALL}
        alone.append(losses)
    together = system.validation_step(model, samples.read(np.arange(3))).losses
    for name in ALL:
        mean = sum(losses[name].item() for losses in alone) / 3
        assert together[name].item() == pytest.approx(mean, rel=1e-5)


def test_weights_are_those_of_the_dataset(teacher_path, student_path, pixels_path):
    stored = tensors("student_hf_names")
    for path, trainable in ((student_path, "language"), (pixels_path, "all")):
        model = build(path, teacher_path, trainable=trainable)
        assert model.group_layers == tuple(group[0] for group in GROUPS)
        for name, value in model.state_dict().items():
            assert torch.equal(value, stored[name].bfloat16().float()), name


def test_a_teacher_for_a_student_of_another_depth_is_refused(student_path, tmp_path):
    other = write_teacher(tmp_path / "t.zarr", attention={"student_layers": DEPTH + 4})
    with pytest.raises(RequestError) as refused:
        build(student_path, other)
    assert f"a student of {DEPTH + 4} layers" in refused.value.happened
    assert f"has {DEPTH}" in refused.value.happened
    assert f"student_layers={DEPTH}" in refused.value.repair
    build(student_path, other, losses={"answer_ce": {}, "perception": {}})


def test_datasets_of_other_prompts_or_pixels_are_refused(student_path, tmp_path):
    for field, value, named in (
        ("layout", "released", "layout 'released' and 'intended'"),
        ("image", PREPROCESSING["image"] | {"tiles": 12}, "image.tiles 12 and 1"),
    ):
        other = write_teacher(tmp_path / f"{field}.zarr", preprocessing={**PREPROCESSING, field: value})
        with pytest.raises(IdentityError) as refused:
            build(other, student_path)
        assert refused.value.happened.endswith(f"from other inputs: {named}")
        # What reads nothing of the teacher needs not fit it.
        build(other, student_path, losses={"answer_ce": {}})


def test_datasets_that_lack_something_are_refused(teacher_path, student_path, pixels_path, tmp_path):
    with pytest.raises(RequestError, match=r"0 of the datasets .* hold a student"):
        build(teacher_path)
    for path, trainable, has in (
        (pixels_path, "language", "image_pixels"),
        (student_path, "all", "image_embeddings"),
    ):
        with pytest.raises(RequestError, match=f"it has {has}"):
            build(teacher_path, path, trainable=trainable)
    some = write_teacher(tmp_path / "some.zarr", capabilities=("perception",))
    with pytest.raises(RequestError, match=r"no feature attention_groups, .*attention_penultimate"):
        build(some, student_path)
    build(some, student_path, losses={"answer_ce": {}, "perception": {}})


def test_a_student_of_other_sizes_than_its_weights_is_refused(tmp_path):
    arguments = model_arguments()
    arguments["text_config"]["intermediate_size"] += 1
    features = (*QUESTIONS, *SEQUENCE, *embedding_features(TOKENS, WIDTH))
    path = write(
        tmp_path / "s.zarr",
        features,
        architecture={"model": arguments},
        assets={"student": save(tensors("student_hf_names"))},
    )
    with pytest.raises(CheckpointError, match=r"up_proj.weight"):
        build(path, losses={"answer_ce": {}})


def test_a_signal_that_a_sample_lacks_is_named(teacher_path, student_path):
    system = DriveKdSystem({"pi": {"planning": [0, 1, 0]}}, ALL)
    dataset = open_dataset(teacher_path, student_path)
    model = system.build(dataset)
    samples = LatentSamples(dataset, "train", system.required_features(), device=torch.device("cpu"))
    batch = samples.read(np.array([2]))
    groups = batch["attention_groups"]
    batch["attention_groups"] = type(groups)(groups.values[:0], torch.tensor([[len(GROUPS), 0, 0]]))
    with pytest.raises(DatasetError, match="attention_groups of a sample of planning") as refused:
        system.validation_step(model, batch)
    assert "student.pi" in refused.value.repair

"""LatentVLA-R as a system: what it reads, what it refuses, and how it trains, resumes and is measured."""

import numpy as np
import pytest
import torch

from cache_schema.dataset.reader import LatentDataset
from cache_schema.errors import CheckpointError, RequestError
from cache_schema.vocabulary.latent_actions import CODES
from student.latentvla.system import LatentVlaSystem
from student.loading.batches import LatentSamples
from student.policy import policy_of
from student.runs.checkpoint import read_checkpoint
from student.runs.evaluate import evaluate
from student.runs.export import export
from student.runs.log import read_log
from student.runs.presets import changed, preset
from student.training.train import train
from tests.student.ends import assert_same_end
from tests.student.killed import train_with_kills
from tests.student.latentvla.sizes import small

DRIVING = {"camera_strip", "command", "can_bus", "ego_trajectory", "ego_trajectory_mask"}
AGENTS = {"truth_agent_boxes", "truth_agent_classes"}
STATES = {"vis_pooled", "act_hidden"}


@pytest.mark.parametrize("ending", ["", "-tiny"])
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("latent-transfuser", set()),
        ("latentvla-fused", STATES),
        ("latentvla-fused-zero", STATES),
        ("latentvla-fused-noise", STATES),
        ("latentvla-distilled", STATES | {"codes", "code_logits"}),
        ("latentvla-distilled-kl-only", {"codes", "code_logits"}),
        ("latentvla-distilled-labels", STATES | {"code_labels"}),
        ("latentvla-distilled-parallel", STATES | {"codes", "code_logits"}),
    ],
)
def test_every_preset_reads_what_it_learns_from_and_nothing_else(name, more, ending):
    assert set(preset(name + ending).make_system().required_features()) == DRIVING | AGENTS | more


@pytest.mark.parametrize(
    ("student", "losses", "message"),
    [
        ({"width": 1}, {"trajectory": {}}, r"student\.width: Extra inputs"),
        ({"planner": {"heads": 3}}, {"trajectory": {}}, "no multiple of heads"),
        ({"planner": {"widths": [8, 8, 8]}}, {"trajectory": {}}, "4 stages"),
        ({"planner": {"bev_pixels": 100}}, {"trajectory": {}}, "no multiple of 32"),
        ({"embedding_heads": 7}, {"trajectory": {}}, "no multiple of embedding_heads"),
        ({"decision": {"heads": 7}}, {"trajectory": {}}, "no multiple of heads"),
        ({"embeddings": "teacher"}, {"code-kl": {}}, "no decision transformer"),
        ({}, {"code-kl": {"temperature": 0}}, r"losses\.code-kl\.temperature"),
        ({}, {"mimic": {}}, "mimic"),
    ],
)
def test_options_that_do_not_fit_are_refused(student, losses, message):
    with pytest.raises(RequestError, match=message):
        LatentVlaSystem(student, losses)


def test_datasets_that_do_not_fit_are_refused_before_anything_is_written(write, tmp_path):
    bad = {
        "30 x 128 pixels": ("latent-transfuser", write(tmp_path / "strip.zarr", strip=(128, 30))),
        "no feature code_logits": (
            "latentvla-distilled",
            write(tmp_path / "kl.zarr", without=("code_logits",)),
        ),
        "no feature camera_strip": (
            "latent-transfuser",
            write(tmp_path / "blind.zarr", without=("camera_strip",)),
        ),
        "is -1": ("latentvla-distilled-labels", write(tmp_path / "labels.zarr", labels=False)),
        "12 and 16 wide": ("latentvla-fused", write(tmp_path / "widths.zarr", act_width=16)),
    }
    for message, (name, path) in bad.items():
        with pytest.raises(RequestError, match=message):
            train(path, tmp_path / "run", small(name))
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_a_student_that_learned_from_labels_needs_none_to_be_built_again(write, tmp_path):
    unlabelled = LatentDataset.open(write(tmp_path / "unlabelled.zarr", without=("code_labels",)))
    config = preset("latentvla-distilled-labels-tiny")
    assert "code_labels" in config.make_system().required_features()
    assert config.make_system().build(unlabelled).decision is not None


def test_orions_mask_hides_the_first_ten_frames(dataset_path):
    dataset = LatentDataset.open(dataset_path)
    losses = {}
    for mask in ("complete", "orion"):
        system = changed(small("latent-transfuser"), {"mask": mask, "losses.agents": "off"}).make_system()
        assert ("frame_index" in system.required_features()) == (mask == "orion")
        samples = LatentSamples(dataset, "train", system.required_features(), device=torch.device("cpu"))
        torch.manual_seed(0)
        model = system.build(dataset).eval()
        losses[mask] = [
            system.validation_step(model, samples.read(np.array([row]))).losses["trajectory"].item()
            for row in (9, 10)
        ]
    assert losses["orion"][0] == 0 < losses["complete"][0]
    assert losses["orion"][1] == losses["complete"][1] > 0


@pytest.mark.parametrize(
    ("name", "terms"),
    [
        ("latent-transfuser", {"trajectory", "agents"}),
        ("latentvla-fused", {"trajectory", "agents"}),
        ("latentvla-fused-zero", {"trajectory", "agents"}),
        ("latentvla-fused-noise", {"trajectory", "agents"}),
        ("latentvla-distilled", {"trajectory", "agents", "code-kl", "embedding"}),
        ("latentvla-distilled-kl-only", {"trajectory", "agents", "code-kl"}),
        ("latentvla-distilled-labels", {"trajectory", "agents", "code-labels", "embedding"}),
        ("latentvla-distilled-parallel", {"trajectory", "agents", "code-kl", "embedding"}),
    ],
)
def test_every_preset_learns_and_is_measured(name, terms, dataset_path, tmp_path):
    train(dataset_path, tmp_path, small(name, epochs=3), trackers=())
    epochs = [line for line in read_log(tmp_path) if line["kind"] == "epoch"]
    assert all(line["train"].keys() == line["val"].keys() == terms | {"total"} for line in epochs)
    assert epochs[-1]["train"]["total"] < 0.9 * epochs[0]["train"]["total"]
    found = evaluate(tmp_path, dataset_path)
    assert {"student", "stand_still", "constant_velocity"} == set(found.l2_m)
    told = {"code_agreement", "code_kl", "code_kl_constant", "code_kl_other_images"}
    assert set(found.measures) == (told if "distilled" in name else set())
    assert set(found.similarity) == ({"embeddings"} if "embedding" in terms else set())


def test_a_run_that_is_killed_ends_with_the_same_bits(dataset_path, tmp_path):
    random = {"student.planner.dropout": 0.1, "student.decision.dropout": 0.1}
    means = {"ema_decay": 0.9, "micro_batch_size": 5, "losses.trajectory.warmup_steps": 8}
    recipe = changed(small("latentvla-distilled"), {**random, **means, "checkpoint_every": 3})
    train(dataset_path, tmp_path / "whole", recipe, trackers=())
    train_with_kills(dataset_path, tmp_path / "parts", recipe, ["writing", "renamed", "4"])
    assert_same_end(tmp_path / "whole", tmp_path / "parts")
    statistics = {
        name: value for name, value in read_checkpoint(tmp_path / "parts")[1].items() if "running" in name
    }
    assert len(statistics) > 10
    assert all(value.isfinite().all() for value in statistics.values())
    evaluate(tmp_path / "parts", dataset_path)


def test_statistics_of_norms_are_those_of_the_steps_alone(dataset_path, tmp_path):
    # Two steps: the first look at two samples, before any step, must not count.
    train(dataset_path, tmp_path, small("latent-transfuser", epochs=1, batch_size=40), trackers=())
    weights = read_checkpoint(tmp_path)[1]
    assert weights["planner._backbone.image_encoder.bn1.num_batches_tracked"] == 2


def test_a_distilled_student_starts_from_a_fused_planner(dataset_path, tmp_path):
    train(dataset_path, tmp_path / "fused", small("latentvla-fused"), trackers=())
    file = export(tmp_path / "fused", tmp_path / "fused.safetensors").file
    fused = read_checkpoint(tmp_path / "fused")[1]
    still = {"epochs": 1, "learning_rate": 1e-12, "weight_decay": 0.0, "warmup_steps": 0}
    recipe = changed(small("latentvla-distilled"), {"start_from": str(file), **still})
    train(dataset_path, tmp_path / "distilled", recipe, trackers=())
    distilled = read_checkpoint(tmp_path / "distilled")[1]
    parts = {name.partition(".")[0] for name in distilled}
    assert parts == {"planner", "pools", "fusion", "decision"}
    for name, value in fused.items():
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(distilled[name], value, rtol=0, atol=1e-9)
    # What the run began with is not read again.
    file.unlink()
    evaluate(tmp_path / "distilled", dataset_path)
    train(dataset_path, tmp_path / "distilled", recipe, trackers=())
    with pytest.raises(CheckpointError, match="cannot be read"):
        train(dataset_path, tmp_path / "another", recipe, trackers=())
    plain = small("latent-transfuser", start_from=str(tmp_path / "again.safetensors"))
    export(tmp_path / "fused", tmp_path / "again.safetensors")
    with pytest.raises(CheckpointError, match=r"unexpected: fusion\.attention"):
        train(dataset_path, tmp_path / "plain", plain, trackers=())


def test_plans_are_given_in_the_lidars_coordinates(dataset_path):
    dataset = LatentDataset.open(dataset_path)
    system = small("latent-transfuser").make_system()
    model = system.build(dataset).eval()
    head = model.planner._trajectory_head._mlp[2]
    torch.nn.init.zeros_(head.weight)
    head.bias.data = torch.tensor([[step, -2.0, 0.0] for step in range(1, 7)]).flatten()
    _, arrays = system.evaluate(model, dataset, "val", device=torch.device("cpu"))
    # 1 m more ahead every step, and 2 m to the right.
    expected = np.broadcast_to(np.stack([np.full(6, 2.0), np.arange(1, 7)], axis=-1), (24, 6, 2))
    np.testing.assert_allclose(arrays["student"], expected, atol=1e-6)


def test_codes_are_measured_beside_the_teachers(dataset_path):
    dataset = LatentDataset.open(dataset_path)
    system = small("latentvla-distilled-parallel").make_system()
    model = system.build(dataset).eval()
    head = model.decision.code_head
    torch.nn.init.zeros_(head.weight)
    head.bias.data = torch.eye(7)[2] * 3.0
    found, arrays = system.evaluate(model, dataset, "val", device=torch.device("cpu"))
    teachers = np.concatenate([dataset.read(clip, CODES) for clip in ("clip-c", "clip-d")])
    np.testing.assert_array_equal(arrays["codes.teacher"], teachers)
    assert (arrays["codes.student"] == 2).all()
    assert found.measures["code_agreement"].value == pytest.approx((teachers == 2).mean())
    logits = torch.from_numpy(
        np.concatenate([dataset.read(clip, "code_logits") for clip in ("clip-c", "clip-d")])
    ).double()
    p = logits.softmax(-1)
    told = head.bias.detach().double().log_softmax(-1)
    kl = (p * (p.log() - told)).sum((1, 2)).mean().item()
    assert found.measures["code_kl"].value == pytest.approx(kl, rel=1e-4)
    assert found.measures["code_kl_other_images"].value == pytest.approx(kl, rel=1e-4)
    constant = (p * (p.log() - p.mean(0).log())).sum((1, 2)).mean().item()
    assert found.measures["code_kl_constant"].value == pytest.approx(constant, rel=1e-4)
    assert found.numbers()["code_kl"] == found.measures["code_kl"].value


def test_a_student_learns_the_codes_that_images_show(write, tmp_path):
    clips = {"clip-a": ("train", 120), "clip-b": ("train", 40), "clip-c": ("val", 24), "clip-d": ("val", 24)}
    path = write(tmp_path / "data.zarr", clips=clips)
    recipe = small("latentvla-distilled-kl-only", epochs=6, learning_rate=8e-3, batch_size=8)
    recipe = changed(recipe, {"losses.trajectory": "off", "losses.agents": "off"})
    train(path, tmp_path / "run", recipe, trackers=())
    found = {name: of.value for name, of in evaluate(tmp_path / "run", path).measures.items()}
    assert found["code_kl"] < 0.1 * found["code_kl_constant"]
    assert found["code_kl_other_images"] > 0.9 * found["code_kl_constant"]
    assert found["code_agreement"] > 0.9


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("latent-transfuser", ()),
        ("latentvla-distilled", ()),
        ("latentvla-fused", ("vis_pooled", "act_hidden")),
        ("latentvla-fused-zero", ("vis_pooled", "act_hidden")),
    ],
)
def test_only_a_student_without_a_model_of_its_own_drives_with_the_teachers_states(dataset_path, name, read):
    system, dataset = small(name).make_system(), LatentDataset.open(dataset_path)
    model = system.build(dataset).eval()
    policy = policy_of(system, model)
    assert policy.features == ("camera_strip", "command", "can_bus", *read)
    samples = LatentSamples(dataset, "val", policy.features, device=torch.device("cpu"))
    with torch.no_grad():
        output = policy.plan(samples.read(np.arange(3)))
    assert output.positions.shape == (3, 6, 2)
    assert output.imitated == {}
    evaluated = system.evaluate(model, dataset, "val", device=torch.device("cpu"))[1]["student"]
    np.testing.assert_allclose(output.positions, evaluated[:3], rtol=0, atol=1e-5)

"""Both stages on synthetic clips: what they learn, how they resume, and what is refused."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cache_schema.errors import CheckpointError, RequestError
from pipeline.bench2drive.source import Bench2Drive
from pipeline.teachers.latent_action_vlm.making.actions_config import preset_of
from pipeline.teachers.latent_action_vlm.making.learned_actions import LearnedActions
from pipeline.teachers.latent_action_vlm.making.train_actions import train_actions
from tests.pipeline.teachers.latent_action_vlm.making.actions_run import train
from tests.pipeline.teachers.latent_action_vlm.making.conftest import few
from tests.pipeline.teachers.latent_action_vlm.making.killed import train_with_kills


def test_killed_at_any_step_a_run_ends_with_the_same_bits(brief, tmp_path):
    """Without a state to go on from, with one, at the end of stage 1, and in stage 2."""
    whole = train(brief, tmp_path / "whole").file
    train_with_kills("actions_run", [brief, tmp_path / "parts"], [1, 3, 4, 3])
    assert (tmp_path / "parts" / whole.name).read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("observation", ["random-dinov2", "pixels"])
@pytest.mark.parametrize("environment", ["frozen-encoder", "kin"])
def test_the_file_gives_the_codes_of_the_run(observation, environment, brief, tmp_path):
    config = few(observation=observation, stage2_environment=environment)
    report = train_actions(tmp_path / "run", Bench2Drive(brief), config)
    learned = LearnedActions(report.file)
    assert learned.sha256 == report.sha256
    assert learned.description.checks == report.checks
    assert learned.config == config
    images = torch.randint(0, 256, (4, config.image_size, config.image_size, 3), dtype=torch.uint8)
    features = learned.observe(images).unflatten(0, (2, 2))
    codes = learned.codes(features)
    assert codes.shape == (2, config.tokens)
    condition = torch.zeros(2, 3, learned.model.config.condition_width)
    assert torch.equal(codes, learned.model.encode(features, condition)[0].codes)


def test_stage_2_leaves_what_it_takes_of_stage_1(brief, tmp_path):
    for environment in ("frozen-encoder", "kin"):
        run = tmp_path / environment
        train_actions(run, Bench2Drive(brief), few(stage2_environment=environment))
        learned = load_file(run / "actions.safetensors")
        stage_1 = {
            name.removeprefix("weights."): value
            for name, value in load_file(run / "stage_1.safetensors").items()
            if name.startswith("weights.")
        }
        if environment == "kin":
            assert torch.equal(learned["vq.codebook.weight"], stage_1["vq.codebook.weight"])
            assert not torch.equal(learned["action_latent"], stage_1["action_latent"])
        else:
            assert all(torch.equal(learned[f"environment.{name}"], value) for name, value in stage_1.items())


def test_the_encoder_does_not_learn_before_the_decoder_may_use_codes(brief, tmp_path):
    train_actions(tmp_path / "run", Bench2Drive(brief), few(warmup_without_codes="0.5"))
    state = load_file(tmp_path / "run" / "stage_1.safetensors")
    assert state["step.decoder.out.weight"] == 6
    assert state["step.vq.codebook.weight"] == state["step.encoder.ffn.1.weight"] == 3


def test_another_configuration_does_not_go_on_with_a_run(brief, tmp_path):
    source = Bench2Drive(brief)
    first = train_actions(tmp_path / "run", source, few())
    with pytest.raises(CheckpointError, match=r"recipe.learning_rate 0.001 there, 0.01 now"):
        train_actions(tmp_path / "run", source, few(learning_rate="0.01"))
    again = train_actions(tmp_path / "run", source, few(checkpoint_every="3", images_in_memory="0"))
    assert again.checks == first.checks


def test_gradients_that_are_not_finite_stop_the_run(brief, tmp_path):
    with pytest.raises(RequestError, match=r"gradient of step [0-9] is not finite"):
        train_actions(tmp_path / "run", Bench2Drive(brief), few(learning_rate="1e30"))


def test_what_is_no_driving_or_too_short(brief, clips_root, tmp_path):
    with pytest.raises(RequestError, match=r"no training clip of .* has two frames that are 1 s apart"):
        train_actions(tmp_path / "run", Bench2Drive(clips_root), few())
    other = Bench2Drive(brief)
    other.kind = "texts"
    with pytest.raises(RequestError, match="'texts' samples"):
        train_actions(tmp_path / "run", other, few())


@pytest.mark.parametrize(
    "change", [{"width": "33"}, {"image_size": "57"}, {"stage2_environment": "none"}, {"depth": "3"}]
)
def test_configurations_that_make_no_sense(change):
    with pytest.raises(RequestError, match=next(iter(change))):
        preset_of("tiny", change)


def test_an_unknown_preset():
    with pytest.raises(RequestError, match="published, tiny"):
        preset_of("large")


def test_a_file_that_was_changed_is_refused(actions_file, tmp_path):
    tensors = load_file(actions_file)
    with safe_open(actions_file, "pt") as stored:
        header = stored.metadata()
    name = "vq_action.codebook.weight"
    save_file({**tensors, name: tensors[name] + 1}, tmp_path / "changed", header)
    with pytest.raises(CheckpointError, match="not those that were written"):
        LearnedActions(tmp_path / "changed")
    save_file(tensors, tmp_path / "bare")
    with pytest.raises(CheckpointError, match="cannot be read as latent actions"):
        LearnedActions(tmp_path / "bare")
    (tmp_path / "text").write_text("no weights")
    with pytest.raises(CheckpointError, match="cannot be read as latent actions"):
        LearnedActions(tmp_path / "text")


def test_a_damaged_state_is_refused(brief, tmp_path):
    source = Bench2Drive(brief)
    train_actions(tmp_path / "run", source, few())
    (tmp_path / "run" / "stage_2.safetensors").write_bytes(b"0" * 100)
    with pytest.raises(CheckpointError, match=r"stage_2.safetensors cannot be read"):
        train_actions(tmp_path / "run", source, few())


def test_bfloat16_is_for_products_alone(brief, tmp_path):
    """Weights, codes and losses stay float32, and so does what is labelled with them."""
    report = train_actions(tmp_path / "run", Bench2Drive(brief), few(precision="bf16"))
    exact = train_actions(tmp_path / "exact", Bench2Drive(brief), few())
    assert {value.dtype for value in load_file(report.file).values()} == {torch.float32}
    assert report.checks.mse == pytest.approx(exact.checks.mse, rel=0.05)
    assert report.sha256 != exact.sha256

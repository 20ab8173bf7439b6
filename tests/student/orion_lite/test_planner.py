import json

import pytest
import torch
from safetensors.torch import load_file

from cache_schema.errors import CheckpointError
from cache_schema.vocabulary.orion import PLANNER_PARTS
from student.orion_lite.planner import Planner, PlannerConfig, planner_stages, waypoints
from tests.paths import GOLDEN

RECORDING = GOLDEN / "orion"
TINY = PlannerConfig(token_width=16, latent=4, gru_layers=2, modes=3, steps=5)


@pytest.fixture(scope="module")
def planner():
    torch.manual_seed(0)
    return Planner(TINY)


def planner_tensors():
    weights = load_file(RECORDING / "state_dict.safetensors")
    return {name: value for name, value in weights.items() if name.startswith(PLANNER_PARTS)}


def test_every_recorded_stage_comes_out():
    tensors = planner_tensors()
    assert len(tensors) == 44
    stages_of = planner_stages(tensors)
    inputs, outputs = (
        load_file(RECORDING / "inputs.safetensors"),
        load_file(RECORDING / "outputs.safetensors"),
    )
    frames = json.loads((RECORDING / "meta.json").read_text())["frames"]
    for frame, meta in enumerate(frames):
        stages = stages_of(outputs[f"{frame}.planning_token"], inputs[f"{frame}.noise"])
        for name, value in stages.items():
            torch.testing.assert_close(value, outputs[f"{frame}.{name}"], rtol=0, atol=1e-5)
        path = waypoints(stages["ego_fut_preds_all"], torch.tensor([meta["command"]]))[0]
        torch.testing.assert_close(path, outputs[f"{frame}.traj"], rtol=0, atol=1e-5)


def test_sizes_are_read_off_the_tensors():
    assert PlannerConfig.of(Planner(TINY).state_dict()) == TINY
    assert PlannerConfig.of(planner_tensors()) == PlannerConfig(token_width=64)


def test_without_noise_it_is_deterministic_and_takes_the_mean(planner):
    token = torch.randn(2, 16)
    plan = planner.plan(token)
    assert torch.equal(plan.offsets, planner.plan(token).offsets)
    assert torch.equal(plan.offsets, planner.plan(token, noise=torch.zeros(2, 1, 4)).offsets)
    assert not torch.equal(plan.offsets, planner.plan(token, noise=torch.ones(2, 1, 4)).offsets)


def test_the_future_latent_depends_on_the_ground_truth_and_the_present_one_does_not(planner):
    token, trajectory = torch.randn(2, 16), torch.randn(2, 5, 2)
    present = planner.plan(token, trajectory=trajectory)
    assert torch.equal(present.offsets, planner.plan(token).offsets)
    future = planner.plan(token, trajectory=trajectory, latent="future")
    other = planner.plan(token, trajectory=trajectory + 1, latent="future")
    assert not torch.equal(future.offsets, other.offsets)
    with pytest.raises(ValueError, match="ground-truth trajectory"):
        planner.plan(token, latent="future")


def test_log_sigma_is_clamped(planner):
    present = planner.plan(torch.full((1, 16), 1e6)).present
    assert present.log_sigma.abs().max() == 5.0


def test_batches_equal_single_frames_unless_the_reference_mixing_is_emulated():
    torch.manual_seed(1)
    corrected = Planner(TINY).double()
    mixing = Planner(TINY, batch_mixing=True).double()
    mixing.load_state_dict(corrected.state_dict())
    token, noise = torch.randn(3, 16).double(), torch.randn(3, 1, 4).double()
    for planner, same in ((corrected, True), (mixing, False)):
        whole = planner.plan(token, noise=noise).offsets
        single = torch.cat([planner.plan(token[b : b + 1], noise=noise[b : b + 1]).offsets for b in range(3)])
        assert torch.allclose(whole, single, atol=1e-12) is same
    assert torch.equal(mixing.plan(token[:1]).offsets, corrected.plan(token[:1]).offsets)


def test_reference_mixing_gives_a_slot_the_slice_that_the_flat_reshape_gives_it():
    planner = Planner(PlannerConfig(token_width=8, gru_layers=4), batch_mixing=True)
    token = torch.arange(24.0).view(3, 8)
    start = planner._initial_state(token)
    for layer in range(4):
        for sample in range(3):
            source, piece = divmod(layer * 3 + sample, 4)
            assert start[layer, sample].tolist() == token[source, 2 * piece : 2 * piece + 2].tolist()


def test_waypoints_sum_up_the_commanded_mode():
    offsets = torch.zeros(2, 3, 4, 2)
    offsets[0, 2] = torch.tensor([1.0, 2.0])
    offsets[1, 0, 1:] = torch.tensor([0.5, 0.0])
    path = waypoints(offsets, torch.tensor([2, 0]))
    assert path[0].tolist() == [[1, 2], [2, 4], [3, 6], [4, 8]]
    assert path[1].tolist() == [[0, 0], [0.5, 0], [1, 0], [1.5, 0]]


def test_weights_that_do_not_fit_are_all_named_in_one_message():
    tensors = planner_tensors()
    del tensors["predict_model.linear3.bias"]
    tensors["predict_model.linear2.bias"] = torch.zeros(7)
    tensors["ego_fut_decoder.6.bias"] = torch.zeros(1)
    with pytest.raises(CheckpointError) as refusal:
        Planner.from_tensors(tensors)
    message = str(refusal.value)
    assert "missing: predict_model.linear3.bias (64,)" in message
    assert "predict_model.linear2.bias is (7,) and should be (64,)" in message
    assert "unexpected: ego_fut_decoder.6.bias" in message
    assert "exactly 44 tensors" in message


def test_weights_without_those_that_sizes_are_read_from_are_refused():
    tensors = planner_tensors()
    del tensors["predict_model.gru.weight_ih_l0"]
    with pytest.raises(CheckpointError, match="weight_ih_l0"):
        Planner.from_tensors(tensors)

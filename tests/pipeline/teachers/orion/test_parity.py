"""The port against recordings of the authors' own modules over six streaming frames, at tiny width."""

import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from cache_schema.errors import CheckpointError, RequestError
from pipeline.teachers.orion.parity import ParityReport, ParityRow, replay
from tests.paths import GOLDEN

RECORDING = GOLDEN / "orion"

PLANNER_STAGES = {"present_mu", "present_log_sigma", "future_states", "ego_fut_preds_all", "traj"}


def plain_planner(weights):
    """The planner as the spec of the teacher puts it (section 1.8), for one frame."""

    def linear(name, x):
        return F.linear(x, weights[f"{name}.weight"].squeeze(-1), weights[f"{name}.bias"])

    gru = torch.nn.GRU(32, weights["predict_model.gru.weight_hh_l0"].shape[1], num_layers=4)
    gru.load_state_dict(
        {
            k.removeprefix("predict_model.gru."): v
            for k, v in weights.items()
            if k.startswith("predict_model.gru.")
        }
    )
    gru.to(weights["predict_model.gru.weight_hh_l0"].device)

    def forward(token, noise):
        x = token
        for layer in (1, 2):
            x = linear(f"present_distribution.encoder.conv{layer}", x).relu()
        x = linear("present_distribution.encoder.conv3", x)
        mu, log_sigma = linear("present_distribution.last_conv.1", x)[:, None].chunk(2, dim=-1)
        log_sigma = log_sigma.clamp(-5, 5)
        latent = (mu + log_sigma.exp() * noise).transpose(0, 1).expand(6, -1, -1)
        states, _ = gru(latent, token.view(len(token), 4, -1).transpose(0, 1).contiguous())
        states = linear("predict_model.linear1", states).relu()
        states = linear("predict_model.linear3", linear("predict_model.linear2", states).relu())
        x = torch.cat((token.expand_as(states), states), dim=-1)
        for layer in (0, 2):
            x = linear(f"ego_fut_decoder.{layer}", x).relu()
        offsets = linear("ego_fut_decoder.4", x).unflatten(-1, (6, 2)).permute(1, 2, 0, 3)
        return {
            "present_mu": mu,
            "present_log_sigma": log_sigma,
            "future_states": states,
            "ego_fut_preds_all": offsets,
        }

    return forward


@pytest.fixture(scope="module")
def report():
    return replay(RECORDING, planner=plain_planner)


def test_every_recorded_stage_of_every_frame_agrees(report):
    assert report.passes, report.failures
    compared = [row for row in report.rows if row.difference is not None]
    recorded = set(load_file(RECORDING / "outputs.safetensors"))
    assert {f"{row.frame}.{row.stage}" for row in report.rows} == recorded
    # Traffic lights' states are the one recorded output that a dataset does not hold.
    assert {row.stage for row in report.rows if row.difference is None} == {"det.all_traffic_states"}
    assert {row.frame for row in compared} == set(range(6))
    assert {row.stage for row in compared} >= PLANNER_STAGES


def test_without_a_planner_its_stages_are_listed_as_not_computed():
    report = replay(RECORDING)
    assert report.passes
    missing = {row.stage for row in report.rows if row.difference is None}
    assert missing == PLANNER_STAGES | {"det.all_traffic_states"}


def test_a_weight_that_is_off_shows_where_it_matters_and_not_before(tmp_path):
    recording = Path(shutil.copytree(RECORDING, tmp_path / "recording"))
    weights = load_file(recording / "state_dict.safetensors")
    weights["pts_bbox_head.memory_query.weight"][0, 0] += 0.1
    save_file(weights, recording / "state_dict.safetensors")
    report = replay(recording)
    assert not report.passes
    failed = {row.stage for row in report.failures if row.frame == 0}
    assert {"mq_out", "history_query", "det_tokens", "vision_tokens", "planning_token"} <= failed
    assert not failed & {"img_feats", "pos_embed", "det_dec", "map_dec", "can_bus_token", "map_tokens"}


def test_objects_may_swap_within_a_frame_of_the_memory_and_not_between_frames(tmp_path):
    recording = Path(shutil.copytree(RECORDING, tmp_path / "recording"))
    outputs = load_file(recording / "outputs.safetensors")
    banks = [name for name in outputs if name.startswith("1.state.map.memory_")]

    def write(order):
        save_file(
            {k: v[:, order] if k in banks else v for k, v in outputs.items()},
            recording / "outputs.safetensors",
        )

    write([1, 0, 2, 5, 4, 3, *range(6, 18)])
    assert replay(recording).passes
    write([6, *range(1, 6), 0, *range(7, 18)])
    failed = {row.stage for row in replay(recording).failures}
    assert failed == {name.removeprefix("1.") for name in banks}


def test_a_difference_that_is_no_number_does_not_pass():
    def report(*differences):
        return ParityReport(tuple(ParityRow(0, "img_feats", d, tolerance=1e-4) for d in differences), "fp32")

    assert report(1e-4).passes
    assert not report(1.1e-4).passes
    assert not report(float("nan")).passes
    assert not report(None).passes


CHOSEN_BY_SCORE = {
    f"state.{head}.{part}"
    for head in ("det", "map")
    for part in ("memory_embedding", "memory_reference_point")
}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_in_16_bits_every_stage_agrees_but_for_what_is_chosen_by_score(precision):
    report = replay(RECORDING, precision=precision, planner=plain_planner)
    assert report.passes, report.failures
    assert {f"{row.frame}.{row.stage}" for row in report.rows} == set(
        load_file(RECORDING / "outputs.safetensors")
    )
    left_out = {row.stage for row in report.rows if row.difference is None}
    assert left_out == CHOSEN_BY_SCORE | {"det.all_traffic_states"}
    # It did compute in 16 bits, and each frame is off by its own roundings, not by those of all before.
    roundoff = {"fp16": 2**-11, "bf16": 2**-8}[precision]
    tokens = [row.difference / roundoff for row in report.rows if row.stage == "planning_token"]
    assert all(1 < error < 12 for error in tokens)


def test_the_tolerance_by_hand():
    rows = {row.stage: row.tolerance for row in replay(RECORDING, precision="bf16").rows}
    # 3 blocks of the backbone and 2 layers of the language model, 21 roundings each, of at most 2^-8.
    assert rows["img_feats"] == rows["det_dec"] == pytest.approx(1e-4 + 5 * (21 * 3) ** 0.5 / 256)
    assert rows["planning_token"] == rows["traj"] == pytest.approx(1e-4 + 5 * (21 * 5) ** 0.5 / 256)
    assert rows["state.det.memory_scene_query"] == rows["det_dec"]
    assert rows["pos_embed"] == rows["mq_out"] == rows["state.map.memory_egopose"] == 1e-4
    assert {row.tolerance for row in replay(RECORDING).rows} == {1e-4}
    assert {row.tolerance for row in replay(RECORDING, precision="fp16", tolerance=0.5).rows} == {0.5}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_in_16_bits_a_wrong_weight_shows_where_it_matters_and_not_before(tmp_path, precision):
    recording = Path(shutil.copytree(RECORDING, tmp_path / "recording"))
    weights = load_file(recording / "state_dict.safetensors")
    weights["lm_head.base_model.model.model.layers.0.mlp.down_proj.weight"].mul_(3)
    save_file(weights, recording / "state_dict.safetensors")
    report = replay(recording, precision=precision, planner=plain_planner)
    assert {row.stage for row in report.failures} == {"llm_hidden", "planning_token", *PLANNER_STAGES}


def test_a_recording_without_memories_is_replayed_in_float32_alone(tmp_path):
    recording = Path(shutil.copytree(RECORDING, tmp_path / "recording"))
    outputs = load_file(recording / "outputs.safetensors")
    outputs = {name: value for name, value in outputs.items() if ".state.det." not in name}
    save_file(outputs, recording / "outputs.safetensors")
    with pytest.raises(RequestError, match=r"outputs lack 0\.state\.det\.memory_embedding"):
        replay(recording, precision="fp16")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_on_a_gpu_every_stage_agrees(precision):
    report = replay(RECORDING, device="cuda", precision=precision, planner=plain_planner)
    assert report.passes, report.failures


def test_folders_that_are_no_recordings(tmp_path):
    with pytest.raises(RequestError, match="not a recording"):
        replay(tmp_path)
    recording = Path(shutil.copytree(RECORDING, tmp_path / "recording"))
    weights = load_file(recording / "state_dict.safetensors")
    del weights["map_head.input_projection.bias"]
    save_file(weights, recording / "state_dict.safetensors")
    with pytest.raises(CheckpointError, match=r"missing: map_head\.input_projection\.bias"):
        replay(recording)

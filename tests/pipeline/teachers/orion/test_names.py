"""The model's weights against the released checkpoint's list of keys."""

import json
from pathlib import Path

import pytest
import torch

from pipeline.teachers.orion.checkpoints.names import checkpoint_name, copy_of
from pipeline.teachers.orion.checkpoints.reader import merged, released_shapes
from pipeline.teachers.orion.checkpoints.tensors import build, teacher_shapes
from pipeline.teachers.orion.network.prompt import PROMPT
from pipeline.teachers.orion.presets import ORION_7B


@pytest.fixture(scope="module")
def released(golden):
    """Role of a tensor -> name -> shape."""
    return json.loads((golden / "orion_keys.json").read_text())


def test_the_released_model_has_exactly_the_released_tensors(released):
    wanted = released["tokens"] | released["planner"]
    wanted |= {
        name: shape for name, shape in released["aux_output_only"].items() if ".tl_branches." not in name
    }
    wanted |= {
        name: shape
        for name, shape in released["train_only"].items()
        if name.startswith("future_distribution.")
    }
    ours = released_shapes(teacher_shapes(ORION_7B.config), ORION_7B.config)
    assert {name: list(shape) for name, shape in ours.items()} == wanted


def test_adapters_and_training_lanes_are_gone_from_the_model():
    shapes = {name: tuple(weight.shape) for name, weight in build(ORION_7B.config).state_dict().items()}
    assert not [name for name in shapes if "lora" in name]
    assert shapes["map_head.instance_embedding_lane.weight"] == (300, 256)
    assert shapes["language_model.model.layers.31.self_attn.o_proj.weight"] == (4096, 4096)


def test_every_tensor_of_the_released_file_is_accounted_for(released):
    everything = {name: shape for tensors in released.values() for name, shape in tensors.items()}
    assert len(everything) == 1793
    stored = {name: torch.zeros(()).expand(shape) for name, shape in everything.items()}
    merged(stored, ORION_7B.config, Path("Orion.pth"))


def test_every_alias_points_at_a_tensor_of_the_file(released):
    everything = {name for tensors in released.values() for name in tensors}
    for name in everything:
        original = copy_of(name, ORION_7B.config.backbone)
        assert (original is not None) == (name in released["alias"]), name
        assert original is None or original in everything - released["alias"].keys()


def test_spellings():
    assert checkpoint_name("language_model.model.norm.weight") == "lm_head.base_model.model.model.norm.weight"
    assert checkpoint_name("ray_positions.position_encoder.2.bias") == "position_encoder.2.bias"
    assert (
        checkpoint_name("map_head.decoder.layers.5.cross_attention.in_proj_bias")
        == "map_head.transformer.query_decoder._layers.5.transformer_layers.2.attn.in_proj_bias"
    )
    assert (
        checkpoint_name("pts_bbox_head.memory_decoder_mq.ffn.2.weight")
        == "pts_bbox_head.memory_decoder_mq._layers.0.transformer_layers.2._layers.3.weight"
    )


def test_the_prompt_is_the_71_ids():
    text = (
        "1 319 13563 1546 263 12758 1404 322 385 23116 21082 20255 29889 450 20255 "
        "4076 8444 29892 13173 29892 322 1248 568 6089 304 278 1404 29915 29879 5155 "
        "29889 3148 1001 29901 29871 -200 29871 13 3492 526 19500 263 1559 29889 12148 "
        "3867 278 18987 23324 706 363 278 321 1484 1559 1728 9590 29889 319 1799 "
        "9047 13566 29901 2266 338 278 18987 23324 706 32000 2 "
    )
    assert list(PROMPT) == [int(token) for token in text.split()]
    assert len(PROMPT) == 71


def test_the_planning_token_is_at_597_of_599():
    language = build(ORION_7B.config).language_model
    assert language.waypoint == 597
    assert language.get_buffer("words").numel() + ORION_7B.config.vision_tokens == 599
    assert language.model.config._attn_implementation == "sdpa"
    assert language.model.rotary_emb.inv_freq.device.type == "cpu"

"""The latent TransFuser, against recordings of NAVSIM's own network."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

from student.latentvla.config import TransFuserConfig
from student.latentvla.planner.latent_transfuser import LatentTransFuser
from tests.paths import GOLDEN

FOLDER = GOLDEN / "latentvla"
ATOL = 2e-5


@pytest.fixture(scope="module")
def recorded():
    return load_file(FOLDER / "ltf.safetensors")


@pytest.fixture(scope="module")
def network(recorded):
    """The network with the recording's sizes and weights, in evaluation mode."""
    meta = json.loads((FOLDER / "ltf.meta.json").read_text())
    options, sizes = meta["options"], meta["config"]
    config = TransFuserConfig(
        widths=options["ch"],
        blocks=options["layers"],
        bev_pixels=sizes["lidar_resolution_height"],
        fusion_blocks=sizes["n_layer"],
        fusion_heads=sizes["n_head"],
        fusion_inner=sizes["block_exp"],
        width=sizes["tf_d_model"],
        layers=sizes["tf_num_layers"],
        heads=sizes["tf_num_head"],
        inner=sizes["tf_d_ffn"],
        boxes=sizes["num_bounding_boxes"],
        bev_channels=sizes["bev_features_channels"],
    )
    network = LatentTransFuser(
        config,
        image_size=(sizes["camera_height"], sizes["camera_width"]),
        state=recorded["in.status"].shape[1],
        steps=recorded["out.trajectory"].shape[1],
    )
    weights = {name[6:]: value for name, value in recorded.items() if name.startswith("param.")}
    ours = {name: value for name, value in network.state_dict().items() if "num_batches" not in name}
    assert {name: value.shape for name, value in ours.items()} == {n: v.shape for n, v in weights.items()}
    network.load_state_dict(weights, strict=False)
    return network.eval()


def close(ours, recorded, atol=ATOL):
    torch.testing.assert_close(ours, recorded, rtol=0, atol=atol)


def test_every_stage_is_the_recorded_one(network, recorded):
    fused = []
    hooks = [
        fusion.register_forward_hook(lambda _module, _inputs, outputs: fused.append(outputs))
        for fusion in network._backbone.transformers
    ]
    decoded = []
    hooks.append(network._tf_decoder.register_forward_hook(lambda *call: decoded.append(call[-1])))
    with torch.no_grad():
        cells = network.bev_cells(recorded["in.image"])
        scene = network.scene(cells, recorded["in.status"])
        plan = network.plan(scene)
        semantics = network.semantics(cells)
        fine = network._backbone.up(cells)
    for hook in hooks:
        hook.remove()
    for number, (image, bev) in enumerate(fused):
        close(image, recorded[f"gpt{number}.image"])
        close(bev, recorded[f"gpt{number}.bev"])
    close(cells, recorded["bev_features"])
    tokens = scene[:, :-1] - network._keyval_embedding.weight[:-1]
    close(tokens, recorded["bev_tokens"])
    close(scene, recorded["keyval"])
    close(decoded[0], recorded["queries_out"])
    close(plan.trajectory, recorded["out.trajectory"])
    close(plan.boxes, recorded["out.agent_states"])
    close(plan.box_logits, recorded["out.agent_labels"])
    close(fine.mean(dim=(2, 3)), recorded["bev_upscaled.mean"])
    close(semantics.mean(dim=(2, 3)), recorded["out.bev_semantic_map.mean"])


def test_gradients_are_the_recorded_ones(network, recorded):
    network.zero_grad()
    plan = network(recorded["in.image"], recorded["in.status"])
    torch.nn.functional.l1_loss(plan.trajectory, recorded["target.trajectory"]).backward()
    conv = network._backbone.image_encoder.conv1.weight.grad
    latent = network._backbone.lidar_latent.grad
    rows = recorded["grad.lidar_latent.rows"]
    every = latent.shape[2] // len(rows)
    for ours, theirs in ((conv, recorded["grad.conv1"]), (latent[0, 0, ::every], rows)):
        close(ours, theirs, atol=1e-5 * theirs.abs().max().item())


def test_at_released_sizes_names_and_shapes_are_navsims():
    manifest = json.loads((FOLDER / "ltf_manifest.json").read_text())
    with torch.device("meta"):
        network = LatentTransFuser(TransFuserConfig(), image_size=(256, 1024), state=8, steps=8)
    shapes = {name: list(value.shape) for name, value in network.state_dict().items()}
    assert shapes == manifest["tensors"]
    assert len(shapes) == 669
    assert sum(weight.numel() for weight in network.parameters()) == manifest["total_parameters"]
    assert manifest["total_parameters"] == 56_035_685


def test_a_grid_in_place_of_the_learned_image_tells_row_and_column():
    small = TransFuserConfig(
        widths=(4, 4, 4, 8), blocks=(1, 1, 1, 1), bev_input="grid", bev_pixels=64, width=8, heads=2, inner=8
    )
    network = LatentTransFuser(small, image_size=(64, 256), state=10, steps=6).eval()
    grid = network._backbone.lidar_latent
    assert grid.shape == (1, 2, 64, 64)
    assert grid[0, :, 63, 0].tolist() == [1, 0]
    plan = network(torch.rand(2, 3, 64, 256), torch.randn(2, 10))
    assert plan.trajectory.shape == (2, 6, 3)
    assert plan.boxes.shape == (2, 30, 5)
    assert plan.boxes[..., :2].abs().max() < 32
    assert plan.trajectory[..., 2].abs().max() <= math.pi
    assert not any("lidar_latent" in name for name in network.state_dict())

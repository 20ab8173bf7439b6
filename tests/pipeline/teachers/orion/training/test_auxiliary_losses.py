"""Auxiliary losses of a teacher in training, against numbers worked out by hand."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from pipeline.bench2drive.geometry import CAMERAS
from pipeline.teachers.orion.network.attention import Attention
from pipeline.teachers.orion.network.config import BackboneConfig
from pipeline.teachers.orion.network.position import token_pixels
from pipeline.teachers.orion.presets import ORION_TINY_RANDOM as TINY
from pipeline.teachers.orion.training import auxiliary_losses
from pipeline.teachers.orion.training.auxiliary_losses import (
    ATTENTION_WEIGHT,
    DENOISING,
    FOUND_M,
    TokenClasses,
    attention_logits,
    attention_loss,
    denoising_loss,
    project,
    tokens_that_see,
)
from pipeline.teachers.orion.training.cache import windows_of
from pipeline.teachers.orion.training.examples import ClipPlan
from pipeline.teachers.orion.training.losses import BOX_WEIGHT, BOX_WEIGHTS, CLASS_WEIGHT
from pipeline.teachers.orion.training.train import Trained
from pipeline.teachers.orion.training.unroll import in_order, unroll

BACKBONE = BackboneConfig(image_size=96, patch_size=16, width=8)
CAMERA = torch.tensor([[50.0, 48, 0, 0], [0, 24, -50, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
"""Looks along y, x to the right and z up: focal length 50, principal point (48, 24)."""
UNDECIDED = 0.25 * math.log(2)
"""Focal loss of a logit of 0, without its weight: entropy log 2, missed by 1/2, squared."""


@pytest.fixture(scope="module")
def windows(tmp_path_factory):
    return windows_of([ClipPlan(7, 0, (0,), 2, frames=32)], TINY.images, tmp_path_factory.mktemp("clips"))


def test_points_are_seen_in_the_patches_of_their_pixels():
    points = torch.tensor([[2.0, 10.0, -1.0], [0.0, -10.0, 0.0], [30.0, 10.0, 0.0], [-9.5, 10.0, 4.7]])
    seen = project(CAMERA, points, BACKBONE)
    # (2, 10, -1) is at pixel (48 + 50 * 2 / 10, 24 + 50 / 10) = (58, 29): row 1, column 3 of six.
    # The second is behind, the third to the right; the last at (0.5, 0.5).
    assert seen.inside.tolist() == [True, False, False, True]
    assert seen.token[[0, 3]].tolist() == [9, 0]
    torch.testing.assert_close(seen.place[[0, 3]], torch.tensor([[10 / 16, 13 / 16], [0.5 / 16, 0.5 / 16]]))
    assert seen.depth[[0, 3]].tolist() == [10.0, 10.0]


def image_truth():
    boxes = torch.zeros(1, 2, 10)
    boxes[0, 0, [0, 1, 4]] = torch.tensor([2.0, 10.0, -1.0])
    return {"boxes": boxes, "labels": torch.tensor([[1, -1]])}


def test_a_token_that_knows_its_agent_costs_nothing_and_others_what_the_focal_loss_says():
    config = replace(TINY.config, backbone=BACKBONE)
    classes = TokenClasses(config)
    tokens = torch.zeros(1, 36, 8)
    losses = classes.loss(tokens, CAMERA[None], image_truth())
    logits = 36 * config.detection.classes
    assert losses["tokens"].item() == pytest.approx(
        CLASS_WEIGHT * UNDECIDED * (0.25 + 0.75 * (logits - 1)), rel=1e-5
    )
    expected = auxiliary_losses.PLACE_WEIGHT * (10 / 16 + 13 / 16 + math.log(10))
    assert losses["token_places"].item() == pytest.approx(expected, rel=1e-5)
    with torch.no_grad():
        tokens[0, 9, 0] = 1.0
        classes.linear.bias[: config.detection.classes] = -20.0
        classes.linear.weight[1, 0] = 40.0
        classes.linear.bias[-3:] = torch.tensor([10 / 16, 13 / 16, math.log(10)])
    knowing = classes.loss(tokens, CAMERA[None], image_truth())
    assert [loss.item() for loss in knowing.values()] == pytest.approx([0.0, 0.0], abs=1e-6)


def test_images_without_agents_have_a_loss():
    classes = TokenClasses(replace(TINY.config, backbone=BACKBONE))
    nobody = image_truth() | {"labels": torch.full((1, 2), -1)}
    losses = classes.loss(torch.zeros(1, 36, 8), CAMERA[None], nobody)
    assert losses["tokens"].item() > 0
    assert losses["token_places"].item() == 0


def test_attention_to_all_tokens_alike_costs_the_logarithm_of_their_number(windows):
    trained = Trained.drawn(TINY, 0)
    for layer in trained.model.pts_bbox_head.decoder.layers:
        torch.nn.init.zeros_(layer.cross_attention.in_proj_weight)
    output, frames = unroll(trained.model, TINY.config, TINY.images, windows), in_order(windows)
    generator = torch.Generator().manual_seed(0)
    loss = attention_loss(trained.model, TINY.config, output, frames["lidar2img"], generator)["attention"]
    tokens = len(CAMERAS) * TINY.config.backbone.grid**2
    assert loss.item() == pytest.approx(ATTENTION_WEIGHT * math.log(tokens), rel=1e-5)


def test_tokens_that_see_a_point_are_those_whose_ray_passes_it(windows):
    frames = in_order(windows)
    lidar2img = frames["lidar2img"].float()
    points = torch.tensor([[-3.0, 20.0, -0.8], [15.0, 4.0, -1.5], [2.0, -30.0, 0.0], [-8.0, -6.0, 1.0]])
    points = points.expand(2, -1, -1)
    found = tokens_that_see(points, lidar2img, TINY.config.backbone)
    assert {(int(frame), int(point)) for frame, point, _ in zip(*found, strict=True)} == {
        (frame, point) for frame in range(2) for point in range(4)
    }
    img2lidar = torch.linalg.inv(lidar2img)
    grid, pixels = TINY.config.backbone.grid, token_pixels(TINY.config)[:, -1]
    depth = pixels[0, 2]
    far = torch.einsum("ncij,tj->ncti", img2lidar, pixels)[..., :3].flatten(1, 2)  # (N, C T, 3)
    cameras = img2lidar[..., :3, 3].repeat_interleave(grid**2, dim=1)
    for frame, point, token in zip(*found, strict=True):
        ahead = (lidar2img[frame, token // grid**2] @ torch.cat((points[frame, point], torch.ones(1))))[2]
        rays = cameras[frame] + (far[frame] - cameras[frame]) * ahead / depth  # as far ahead as the point
        first = token - token % grid
        patch = (rays[first + 1] - rays[first]).norm()
        beside = (rays[token] - points[frame, point]).norm()
        assert beside < patch / math.sqrt(2)


def test_the_score_of_attention_is_that_of_the_network():
    attention = Attention(8, 2)
    torch.nn.init.normal_(attention.in_proj_weight)
    torch.nn.init.normal_(attention.in_proj_bias)
    query, key = torch.randn(1, 3, 8), torch.randn(1, 5, 8)
    mixed = attention_logits(attention, query, key).softmax(dim=-1)
    weight, bias = attention.in_proj_weight[16:], attention.in_proj_bias[16:]
    values = F.linear(key, weight, bias).unflatten(-1, (2, 4)).transpose(1, 2)
    own = attention.out_proj((mixed @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(own, attention(query, key, key))


def test_denoising_queries_that_know_nothing_cost_what_the_focal_loss_says(windows):
    trained = Trained.drawn(TINY, 0)
    head = trained.model.pts_bbox_head
    for part in (head.cls_branch[-1], head.reg_branch[-1]):
        torch.nn.init.zeros_(part.weight)
        torch.nn.init.zeros_(part.bias)
    output, frames = unroll(trained.model, TINY.config, TINY.images, windows), in_order(windows)
    losses = denoising_loss(trained.model, output, frames, torch.Generator().manual_seed(3))
    present = frames["labels"] >= 0
    points = auxiliary_losses._noisy(
        frames["boxes"][..., [0, 1, 4]], present, torch.Generator().manual_seed(3)
    )
    assert points.shape == (2, DENOISING, 3)
    found, errors = 0, 0.0
    for frame in range(2):
        boxes = frames["boxes"][frame][present[frame]]
        apart = (points[frame, :, None, :2] - boxes[:, :2]).norm(dim=-1)
        near = points[frame, : DENOISING // 2, None] - boxes[:, [0, 1, 4]]
        within = near.abs() < torch.tensor([4, 4, 0.5])
        assert within.all(dim=-1).any(dim=-1).all()
        centres = frames["boxes"][..., [0, 1, 4]][present]
        assert torch.isin(points[frame, DENOISING // 2 :], centres).all()
        for query, (distance, agent) in enumerate(zip(*apart.min(dim=1), strict=True)):
            if distance < FOUND_M:
                found += 1
                guess = torch.zeros(10)
                guess[:3] = points[frame, query]
                # The third number, a log width, passes the sigmoid with the reference's height.
                errors += float((guess - boxes[agent]).abs() @ torch.tensor(BOX_WEIGHTS))
    assert 0 < found < 2 * DENOISING
    logits = 2 * DENOISING * TINY.config.detection.classes
    expected = CLASS_WEIGHT * UNDECIDED * (0.25 * found + 0.75 * (logits - found)) / found
    assert losses["denoising"].item() == pytest.approx(expected, rel=1e-4)
    assert losses["denoising_boxes"].item() == pytest.approx(BOX_WEIGHT * errors / found, rel=1e-3)


def test_denoising_queries_do_not_see_each_other(windows):
    trained = Trained.drawn(TINY, 0)
    output, frames = unroll(trained.model, TINY.config, TINY.images, windows), in_order(windows)
    alone = {name: values[:1] for name, values in frames.items()}
    half = replace(output, tokens=output.tokens[:1], rays=output.rays[:1])
    seen, decoder = [], trained.model.pts_bbox_head.decoder
    decoder.register_forward_hook(lambda _, inputs, output: seen.append((inputs, output)))
    denoising_loss(trained.model, half, alone, torch.Generator().manual_seed(3))
    (contents, positions), decoded = seen[0]
    first = decoder(
        contents[:, :1],
        positions[:, :1],
        image=trained.model.pts_bbox_head.input_projection(half.tokens),
        image_positions=half.rays,
        memory=positions[:, :0],
        memory_positions=positions[:, :0],
        mask=torch.ones(1, 1, dtype=torch.bool),
    )
    torch.testing.assert_close(decoded[:, :1], first, rtol=1e-4, atol=1e-5)

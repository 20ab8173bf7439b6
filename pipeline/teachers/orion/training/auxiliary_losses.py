"""Auxiliary losses on what is computed on the way to the teacher's answers, beside those on the answers.

With the losses of ``losses`` alone, a few thousand steps from random weights teach where agents tend to be,
and not to read it from images. The released teacher begins with a backbone that can detect, and is trained
with denoising queries. Here all of it is learned on the way:

- image tokens tell which agents are in their patch, and how far away;
- attention to image tokens falls on the one that sees the query's point;
- queries that begin near an agent find it, whatever other queries do (denoising queries, arXiv:2203.01305).

Dimension letters: I images, n tokens of an image, A agents, N frames, C cameras, Q points or queries, K keys,
E width, H heads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.teachers.orion.training.losses import (
    BOX_WEIGHT,
    BOX_WEIGHTS,
    CLASS_WEIGHT,
    Matches,
    classification,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pipeline.teachers.orion.network.attention import Attention, DecoderLayer
    from pipeline.teachers.orion.network.config import BackboneConfig, OrionConfig
    from pipeline.teachers.orion.network.model import Orion
    from pipeline.teachers.orion.training.unroll import Unrolled

BOX_CENTRE = [0, 1, 4]
"""Where a box's numbers are those of its middle."""

NEAR_PLANE_M = 0.5
"""A camera sees what is farther than this in front of it."""
PLACE_WEIGHT = 0.3
"""Of where an agent is that a token sees: column and row in the patch, and the logarithm of the depth."""

ATTENTION_WEIGHT = 0.3
"""Of the cross-entropy."""
POINTS = 40
"""Points of a frame from which attention should fall on the token that sees them."""
POINTS_M = ((-40.0, -40.0, -1.3), (40.0, 40.0, -0.3))
"""Volume around them in the LiDAR frame: where the middles of cars are."""

DENOISING = 120
"""Denoising queries of a frame: half of them near its agents, half where agents of any frame of the batch
are, as learned queries begin, too. Most of these find nothing."""
NOISE_M = (4.0, 4.0, 0.5)
"""Largest distance from an agent along x, y and z, uniform."""
FOUND_M = 2.0
"""A denoising query has to find the agent that is as near as this to its reference point, seen from above."""


class Seen(NamedTuple):
    """Points in images."""

    token: Tensor
    """(..., Q) number of the patch, row by row."""
    place: Tensor
    """(..., Q, 2) column and row in the patch, 0 to 1."""
    depth: Tensor
    """(..., Q) metres."""
    inside: Tensor
    """(..., Q) bool: whether the image shows the point. All else means nothing where it does not."""


def project(lidar2img: Tensor, points: Tensor, config: BackboneConfig) -> Seen:
    """Project points (..., Q, 3), in metres in the LiDAR frame, by matrices (..., 4, 4)."""
    homogeneous = torch.cat((points, torch.ones_like(points[..., :1])), dim=-1)
    u, v, depth, _ = (homogeneous @ lidar2img.float().mT).unbind(-1)
    pixels = torch.stack((u, v), dim=-1) / depth.clamp(min=NEAR_PLANE_M)[..., None]
    inside = (depth > NEAR_PLANE_M) & ((pixels >= 0) & (pixels < config.image_size)).all(dim=-1)
    patches = (pixels / config.patch_size).where(inside[..., None], 0)
    column, row = patches.long().unbind(-1)
    return Seen(row * config.grid + column, patches.frac(), depth, inside)


class TokenClasses(nn.Module):
    """Which agents are in the patch of an image token, and where. Its weights are used in training alone."""

    def __init__(self, config: OrionConfig) -> None:
        super().__init__()
        self.backbone, self.classes = config.backbone, config.detection.classes
        self.linear = nn.Linear(config.backbone.width, self.classes + 3)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def loss(self, tokens: Tensor, lidar2img: Tensor, truth: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the losses of I images.

        Args:
            tokens: (I, n, backbone width).
            lidar2img: (I, 4, 4).
            truth: Boxes (I, A, 10) and labels (I, A) of their frames.
        """
        boxes, labels = truth["boxes"], truth["labels"]
        seen = project(lidar2img, boxes[..., BOX_CENTRE], self.backbone)
        image, agent = (seen.inside & (labels >= 0)).nonzero(as_tuple=True)
        token = seen.token[image, agent]
        logits, where = self.linear(tokens).tensor_split((self.classes,), dim=-1)
        true = torch.cat((seen.place, seen.depth.clamp(min=NEAR_PLANE_M).log()[..., None]), dim=-1)
        error = (where[image, token] - true[image, agent]).abs().sum(dim=-1)
        return {
            "tokens": CLASS_WEIGHT * classification(logits, labels, Matches(image, token, agent)),
            "token_places": PLACE_WEIGHT * error.sum() / max(len(image), 1),
        }


def attention_loss(
    model: Orion, config: OrionConfig, output: Unrolled, lidar2img: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return the cross-entropy of object queries' attention to the image tokens that see their points.

    In every layer, queries are taken to have no contents yet, which holds in the first.

    Args:
        model: The teacher.
        config: Its sizes.
        output: Image tokens of N frames, and their positions.
        lidar2img: (N, C, 4, 4).
        generator: Draws the queries' reference points.
    """
    head = model.pts_bbox_head
    low, high = torch.tensor(POINTS_M)
    points = low + (high - low) * torch.rand(len(lidar2img), POINTS, 3, generator=generator)
    frame, point, token = tokens_that_see(points, lidar2img, config.backbone)
    positions = positions_of(model, head.volume.normalise(points))
    keys = head.input_projection(output.tokens) + output.rays
    losses = [
        -attention_logits(layer.cross_attention, blank(layer) + positions, keys)
        .log_softmax(dim=-1)[frame, :, point, token]
        .mean()
        for layer in cast("Iterable[DecoderLayer]", head.decoder.layers)
    ]
    return {"attention": ATTENTION_WEIGHT * torch.stack(losses).mean()}


def tokens_that_see(
    points: Tensor, lidar2img: Tensor, config: BackboneConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """Return frame, point and token, among those of all cameras, of every point and each camera that sees it.

    Args:
        points: (N, Q, 3) metres in the LiDAR frame.
        lidar2img: (N, C, 4, 4).
        config: Sizes of the image and its patches.
    """
    seen = project(lidar2img, points[:, None], config)
    frame, camera, point = seen.inside.nonzero(as_tuple=True)
    return frame, point, seen.token[frame, camera, point] + camera * config.grid**2


def blank(layer: DecoderLayer) -> Tensor:
    """Return (E) what self-attention makes of a query without contents among others without contents."""
    nothing = torch.zeros(1, 1, layer.ffn_norm.normalized_shape[0])
    return layer.self_norm(layer.self_attention(nothing, nothing, nothing)).flatten()


def attention_logits(attention: Attention, query: Tensor, key: Tensor) -> Tensor:
    """Return the scores (N, H, Q, K) of queries (N, Q, E) and keys (N, K, E)."""
    assert attention.in_proj_bias is not None
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    q, k = (
        F.linear(x, weight, bias).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
        for x, weight, bias in zip((query, key), weights, biases, strict=False)
    )
    return q @ k.mT / q.shape[-1] ** 0.5


def positions_of(model: Orion, references: Tensor) -> Tensor:
    """Return the positions (N, Q, E) of object queries at normalised reference points (N, Q, 3)."""
    flat = model.query_positions.present(references.flatten(0, 1)[:, None])
    return flat.unflatten(0, references.shape[:2])


def denoising_loss(
    model: Orion, output: Unrolled, truth: Mapping[str, Tensor], generator: torch.Generator
) -> dict[str, Tensor]:
    """Return the losses of denoising queries, which see image tokens, and neither memory nor each other.

    Args:
        model: The teacher.
        output: Image tokens of N frames, and their positions.
        truth: Boxes (N, A, 10) and labels (N, A), -1 where there is no agent.
        generator: Draws the queries' reference points.
    """
    head, boxes, labels = model.pts_bbox_head, truth["boxes"], truth["labels"]
    points = _noisy(boxes[..., BOX_CENTRE], labels >= 0, generator)
    apart = torch.cdist(points[..., :2], boxes[..., :2]).masked_fill((labels < 0)[:, None], torch.inf)
    distance, nearest = apart.min(dim=-1)
    frame, query = (distance < FOUND_M).nonzero(as_tuple=True)
    agent = nearest[frame, query]

    references = head.volume.normalise(points).clamp(0, 1)
    positions = positions_of(model, references)
    none = positions[:, :0]
    objects = head.decoder(
        torch.zeros_like(positions),
        positions,
        image=head.input_projection(output.tokens),
        image_positions=output.rays,
        memory=none,
        memory_positions=none,
        mask=torch.eye(DENOISING, dtype=torch.bool),
    )
    found = Matches(frame, query, agent)
    wrong = head.boxes(objects, references)[frame, query] - boxes[frame, agent]
    error = wrong.abs() @ torch.tensor(BOX_WEIGHTS)
    return {
        "denoising": CLASS_WEIGHT * classification(head.cls_branch(objects), labels, found),
        "denoising_boxes": BOX_WEIGHT * error.sum() / max(len(frame), 1),
    }


def _noisy(centres: Tensor, present: Tensor, generator: torch.Generator) -> Tensor:
    """Return reference points (N, ``DENOISING``, 3), by agents (N, A, 3) that are ``present`` (N, A)."""
    frames = len(centres)
    # A frame without agents draws from its empty places.
    chances = present.float() + 1e-9
    own = torch.multinomial(chances, DENOISING // 2, replacement=True, generator=generator)
    near = centres.gather(1, own[..., None].expand(-1, -1, 3))
    near = near + (2 * torch.rand(near.shape, generator=generator) - 1) * torch.tensor(NOISE_M)
    places = centres[present]
    if not len(places):
        return torch.cat((near, near), dim=1)
    any_frame = torch.randint(len(places), (frames, DENOISING - DENOISING // 2), generator=generator)
    return torch.cat((near, places[any_frame]), dim=1)

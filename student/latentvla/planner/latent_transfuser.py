"""The latent TransFuser: a planner that sees the front cameras as one strip, and no LiDAR.

The network is NAVSIM's, in plain torch and under its names (spec LatentVLA 4). In place of a LiDAR's image it
has learned one. What its planner reads, 64 cells of a bird's-eye view and the ego's state, is given out
before the planner reads it, so that something else may be mixed in.

Inside, coordinates are the ego's: x forward, y left, headings counter-clockwise from x; metres and radians.

Dimension letters: B batch, C channel, R row, S column, N token (cells, then the state), D width, T step (of
0.5 s), A box, G number of the ego's state.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from student.latentvla.planner.branch_fusion import BranchFusion
from student.latentvla.planner.resnet import STAGES, ResNet

if TYPE_CHECKING:
    from student.latentvla.config import TransFuserConfig

PIXELS_A_CELL = 32
"""Rows and columns of an image for one cell of the last stage's map."""
BEV_CLASSES = 7
"""Classes of the map seen from above."""
BOX_RANGE_M = 32.0
"""Boxes lie within this, forward and sideways."""


class Plan(NamedTuple):
    """What the planner says of B frames, in the ego's coordinates."""

    trajectory: Tensor
    """(B, T, 3) x, y in metres and heading in radians, 0.5 s apart."""
    boxes: Tensor
    """(B, A, 5) x, y, heading, length, width of other vehicles."""
    box_logits: Tensor
    """(B, A) whether there is one."""


class _Backbone(nn.Module):
    """Both branches and their fusion after every stage."""

    def __init__(self, config: TransFuserConfig, image_size: tuple[int, int]) -> None:
        super().__init__()
        self.image_cells = (image_size[0] // PIXELS_A_CELL, image_size[1] // PIXELS_A_CELL)
        self.bev_cells = (config.bev_pixels // PIXELS_A_CELL, config.bev_pixels // PIXELS_A_CELL)
        widths = config.widths
        self.image_encoder = ResNet(3, widths, config.blocks)
        self.lidar_encoder = ResNet(1 if config.bev_input == "learned" else 2, widths, config.blocks)
        side = config.bev_pixels
        if config.bev_input == "learned":
            self.lidar_latent = nn.Parameter(torch.randn(1, 1, side, side))
        else:
            line = torch.linspace(0, 1, side)
            grid = torch.stack(torch.meshgrid(line, line, indexing="ij"))[None]  # (1, 2, R, S)
            self.register_buffer("lidar_latent", grid, persistent=False)
        cells = math.prod(self.image_cells) + math.prod(self.bev_cells)
        self.transformers = nn.ModuleList(
            BranchFusion(
                width,
                cells,
                inner=config.fusion_inner,
                blocks=config.fusion_blocks,
                heads=config.fusion_heads,
                dropout=config.dropout,
            )
            for width in widths
        )
        self.lidar_channel_to_img = nn.ModuleList(nn.Conv2d(width, width, 1) for width in widths)
        self.img_channel_to_lidar = nn.ModuleList(nn.Conv2d(width, width, 1) for width in widths)
        inner = config.bev_channels
        self.up_conv5 = nn.Conv2d(inner, inner, 3, padding=1)
        self.up_conv4 = nn.Conv2d(inner, inner, 3, padding=1)
        self.c5_conv = nn.Conv2d(widths[-1], inner, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Map (B, 3, R, S) in 0..1 to the cells of the bird's-eye view, (B, C, R, S)."""
        image_map = self.image_encoder.stem(image)
        # Not len(), which would become a constant in a traced graph.
        bev_map = self.lidar_encoder.stem(self.lidar_latent.expand(image.shape[0], -1, -1, -1))
        for number in range(1, STAGES + 1):
            image_map = self.image_encoder.stage(number, image_map)
            bev_map = self.lidar_encoder.stage(number, bev_map)
            image_map, bev_map = self._fuse(number - 1, image_map, bev_map)
        return bev_map

    def up(self, cells: Tensor) -> Tensor:
        """Map the cells (B, C, R, S) to finer ones, eight times as many a side."""
        side = 8 * cells.shape[-1]
        fine = F.interpolate(self.c5_conv(cells).relu(), scale_factor=2, mode="bilinear")
        return self.up_conv4(_resized(self.up_conv5(fine).relu(), (side, side))).relu()

    def _fuse(self, number: int, image_map: Tensor, bev_map: Tensor) -> tuple[Tensor, Tensor]:
        """Add to both maps what they learn from each other on a coarse grid."""
        image = F.adaptive_avg_pool2d(image_map, self.image_cells)
        bev = self.lidar_channel_to_img[number](F.adaptive_avg_pool2d(bev_map, self.bev_cells))
        image, bev = self.transformers[number](image, bev)
        bev = self.img_channel_to_lidar[number](bev)
        return (
            image_map + _resized(image, (image_map.shape[2], image_map.shape[3])),
            bev_map + _resized(bev, (bev_map.shape[2], bev_map.shape[3])),
        )


class _TrajectoryHead(nn.Module):
    def __init__(self, width: int, inner: int, steps: int) -> None:
        super().__init__()
        self._mlp = nn.Sequential(nn.Linear(width, inner), nn.ReLU(), nn.Linear(inner, 3 * steps))

    def forward(self, query: Tensor) -> Tensor:
        """Map (B, D) to (B, T, 3)."""
        poses = self._mlp(query).unflatten(-1, (-1, 3))
        return torch.cat([poses[..., :2], math.pi * poses[..., 2:].tanh()], dim=-1)


class _AgentHead(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self._mlp_states = nn.Sequential(nn.Linear(width, inner), nn.ReLU(), nn.Linear(inner, 5))
        self._mlp_label = nn.Sequential(nn.Linear(width, 1))

    def forward(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, A, D) to boxes (B, A, 5) and logits (B, A)."""
        places, heading, size = self._mlp_states(queries).split([2, 1, 2], dim=-1)
        boxes = torch.cat([BOX_RANGE_M * places.tanh(), math.pi * heading.tanh(), size], dim=-1)
        return boxes, self._mlp_label(queries).squeeze(-1)


class LatentTransFuser(nn.Module):
    """The planner: 669 tensors and 56,035,685 weights with the released sizes.

    Args:
        config: Its sizes.
        image_size: Rows and columns of the image, multiples of 32; released 256 x 1024.
        state: Numbers G of the ego's state; released 8.
        steps: Steps T of the trajectory; released 8.
    """

    def __init__(
        self, config: TransFuserConfig, *, image_size: tuple[int, int], state: int, steps: int
    ) -> None:
        super().__init__()
        width, inner, channels = config.width, config.inner, config.bev_channels
        self.config = config
        self._backbone = _Backbone(config, image_size)
        self.cells = math.prod(self._backbone.bev_cells)
        self._keyval_embedding = nn.Embedding(self.cells + 1, width)
        self._query_embedding = nn.Embedding(1 + config.boxes, width)
        self._bev_downscale = nn.Conv2d(config.widths[-1], width, 1)
        self._status_encoding = nn.Linear(state, width)
        self._bev_semantic_head = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, BEV_CLASSES, 1)
        )
        layer = nn.TransformerDecoderLayer(width, config.heads, inner, dropout=0.0, batch_first=True)
        self._tf_decoder = nn.TransformerDecoder(layer, config.layers)
        self._agent_head = _AgentHead(width, inner)
        self._trajectory_head = _TrajectoryHead(width, inner, steps)

    def forward(self, image: Tensor, state: Tensor) -> Plan:
        """Plan from an image (B, 3, R, S) in 0..1, not normalised, and the ego's state (B, G)."""
        return self.plan(self.scene(self.bev_cells(image), state))

    def bev_cells(self, image: Tensor) -> Tensor:
        """Map an image (B, 3, R, S) to the cells of a bird's-eye view, (B, C, R, S)."""
        return self._backbone(image)

    def scene(self, cells: Tensor, state: Tensor) -> Tensor:
        """Return what the planner reads of cells (B, C, R, S) and the ego's state (B, G): (B, N, D)."""
        tokens = self._bev_downscale(cells).flatten(2).transpose(1, 2)  # (B, N - 1, D)
        encoded = self._status_encoding(state)[:, None]  # (B, 1, D)
        return torch.cat([tokens, encoded], dim=1) + self._keyval_embedding.weight

    def plan(self, scene: Tensor) -> Plan:
        """Plan from a scene (B, N, D)."""
        query = self._query_embedding.weight.expand(scene.shape[0], -1, -1)
        decoded = self._tf_decoder(query, scene)  # (B, 1 + A, D)
        return Plan(self._trajectory_head(decoded[:, 0]), *self._agent_head(decoded[:, 1:]))

    def semantics(self, cells: Tensor) -> Tensor:
        """Return class logits of the map ahead, (B, 7, R, S), from the cells; NAVSIM's, untrained here."""
        side = PIXELS_A_CELL * cells.shape[-1]
        logits = cast("Tensor", self._bev_semantic_head(self._backbone.up(cells)))
        return _resized(logits, (side // 2, side))


def _resized(cells: Tensor, size: tuple[int, int]) -> Tensor:
    """Interpolate a map (B, C, R, S) to another number of rows and columns."""
    return F.interpolate(cells, size=size, mode="bilinear", align_corners=False)

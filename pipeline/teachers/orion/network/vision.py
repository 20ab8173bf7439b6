"""ORION from images to vision tokens: all of it in front of its language model.

Source: spec ORION teacher 0.
Dimension letters: B slots, C cameras, N image tokens, D token width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor, nn

from pipeline.teachers.orion.network.backbone import Backbone, Block
from pipeline.teachers.orion.network.detection_head import DetectionHead
from pipeline.teachers.orion.network.map_head import MapHead
from pipeline.teachers.orion.network.memory import OrionMemory
from pipeline.teachers.orion.network.position import QueryPositions, RayPositions

if TYPE_CHECKING:
    from pipeline.teachers.orion.network.config import OrionConfig
    from pipeline.teachers.orion.network.detection_head import DetectionOutput
    from pipeline.teachers.orion.network.map_head import MapOutput


Layer = TypeVar("Layer", bound=Callable[..., Tensor])

COMPILER: dict[str, Any] = {"deterministic": True}
"""Options of torch's compiler. It would otherwise choose the order of sums by timing them: no two processes
would give the same bits."""


def compiled(layer: Layer) -> Layer:
    """Return a layer's function, compiled once for all layers of its kind."""
    return cast("Layer", torch.compile(layer, dynamic=False, fullgraph=True, options=COMPILER))


@dataclass(frozen=True)
class VisionOutput:
    """Output of the vision stack for one frame of B slots."""

    detection: DetectionOutput
    road_map: MapOutput


class VisionStack(nn.Module):
    """Backbone and heads, which carry the memory."""

    def __init__(self, config: OrionConfig) -> None:
        super().__init__()
        self.img_backbone = Backbone(config.backbone)
        self.ray_positions = RayPositions(config)
        self.query_positions = QueryPositions(config)
        self.pts_bbox_head = DetectionHead(config)
        self.map_head = MapHead(config)

    def forward(
        self,
        images: Tensor,
        img2lidar: Tensor,
        pose: Tensor,
        pose_inv: Tensor,
        timestamp: Tensor,
        signals: Tensor,
        same_clip: Tensor,
        memory: OrionMemory,
    ) -> tuple[VisionOutput, OrionMemory]:
        """Process one frame of every slot.

        Args:
            images: (B, C, 3, height, width) float32, normalised.
            img2lidar: (B, C, 4, 4) float32, pixels of the images (u d, v d, d, 1) to the LiDAR frame.
            pose: (B, 4, 4) float32, LiDAR to world.
            pose_inv: (B, 4, 4) float32, world to LiDAR.
            timestamp: (B) float64, seconds.
            signals: (B, 19) float64: command index, then the CAN bus.
            same_clip: (B) bool, the memory is of the same clip.
            memory: Of the frames before.

        Returns:
            The output, and the new memory.
        """
        ego = memory.ego_motion(pose, pose_inv, timestamp, same_clip)
        tokens = self.img_backbone(images.flatten(0, 1)).float().flatten(1, 2)
        tokens = tokens.unflatten(0, images.shape[:2]).flatten(1, 2)  # (B, N, backbone width)
        rays = self.ray_positions(img2lidar)
        detection, objects, history, past_signals = self.pts_bbox_head(
            tokens, rays, signals, ego, memory, self.query_positions
        )
        road_map, lanes = self.map_head(tokens, rays, ego, memory.lanes, self.query_positions)
        memory = OrionMemory(objects, lanes, history, past_signals, timestamp)
        return VisionOutput(detection, road_map), memory

    def vision_tokens(self, seen: VisionOutput) -> Tensor:
        """Return (B, scene + history + 1 + map, D): the tokens that stand for the images in the prompt."""
        detection = seen.detection
        scene = self.pts_bbox_head.output_projection(torch.cat((detection.scene, detection.history), dim=1))
        road = self.map_head.output_projection(seen.road_map.queries)
        return torch.cat((scene, detection.ego_token[:, None], road), dim=1)

    def projections(self) -> dict[str, Tensor]:
        """Return the maps of queries to vision tokens, as a dataset names them, on the host."""
        scene, lanes = self.pts_bbox_head.output_projection, self.map_head.output_projection
        maps = {
            "scene.weight": scene.weight,
            "scene.bias": scene.bias,
            "map.weight": lanes.weight,
            "map.bias": lanes.bias,
        }
        return {name: weight.detach().cpu() for name, weight in maps.items()}

    def compile_layers(self) -> None:
        """Compile the layers of the backbone, once for all of them.

        The first frame of every number of slots then takes about half a minute longer. Results change by
        rounding.
        """
        self.img_backbone.apply_block = compiled(Block.forward)
        self.img_backbone.add_block = compiled(Block.add_to)

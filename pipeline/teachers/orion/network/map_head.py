"""Map head: lanes and map tokens.

Source: spec ORION teacher 1.6.
Dimension letters: B slots, N image tokens, X map queries, L lanes, K lanes kept, P points of a lane, E width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.teachers.orion.network.attention import Decoder, attention_mask
from pipeline.teachers.orion.network.config import DETECTION_RANGE_M
from pipeline.teachers.orion.network.detection_head import classifier, gather_rows, regressor
from pipeline.teachers.orion.network.position import Volume, inverse_sigmoid

if TYPE_CHECKING:
    from pipeline.teachers.orion.network.config import OrionConfig
    from pipeline.teachers.orion.network.memory import EgoMotion, QueryMemory
    from pipeline.teachers.orion.network.position import QueryPositions


@dataclass(frozen=True)
class MapOutput:
    """Output of the map head for one frame of B slots."""

    queries: Tensor
    """(B, X, E) map queries."""
    points: Tensor
    """(B, L, P, 3) metres in the LiDAR frame."""
    class_logits: Tensor
    """(B, L, classes)."""


class MapHead(nn.Module):
    """Maps image tokens and memory to a ``MapOutput`` and new memory."""

    def __init__(self, config: OrionConfig) -> None:
        super().__init__()
        sizes, width = config.lanes, config.width
        self.sizes = sizes
        self.volume = Volume(DETECTION_RANGE_M)
        self.input_projection = nn.Linear(config.backbone.width, width)
        self.query_embedding = nn.Embedding(sizes.map_queries, width)
        self.instance_embedding_lane = nn.Embedding(sizes.lanes, width)
        self.points_embedding_lane = nn.Embedding(config.lane_points, width)
        self.reference_points_lane = nn.Linear(width, 3)
        self.decoder = Decoder(width, sizes.decoder)
        self.cls_branch = classifier(width, sizes.classes)
        self.reg_branch = regressor(width, 3 * config.lane_points)
        self.output_projection = nn.Linear(width, config.language.width)
        mask = attention_mask(sizes.map_queries, sizes.lanes, sizes.memory)
        self.register_buffer("mask", mask, persistent=False)

    def forward(
        self,
        tokens: Tensor,
        ray_positions: Tensor,
        ego: EgoMotion,
        memory: QueryMemory,
        query_positions: QueryPositions,
    ) -> tuple[MapOutput, QueryMemory]:
        """Process one frame.

        Args:
            tokens: (B, N, backbone width) image tokens.
            ray_positions: (B, N, E).
            ego: Pose and time of the frame.
            memory: Lanes of the frames before.
            query_positions: Encoder of reference points.

        Returns:
            The map, and the new memory of lanes.
        """
        slots = tokens.shape[0]
        remembered = memory.recall(ego)
        lanes = self.instance_embedding_lane.weight  # (L, E)
        references = self.reference_points_lane(lanes[:, None] + self.points_embedding_lane.weight).sigmoid()
        positions = query_positions.present(references)
        extra = self.query_embedding.weight

        decoded = self.decoder(
            torch.cat((extra, lanes)).expand(slots, -1, -1),
            torch.cat((torch.zeros_like(extra), positions)).expand(slots, -1, -1),
            image=self.input_projection(tokens),
            image_positions=ray_positions,
            memory=remembered.contents,
            memory_positions=query_positions.past(
                self.volume.normalise(remembered.points), remembered.poses, remembered.times
            ),
            mask=self.get_buffer("mask"),
        )
        queries, lanes = decoded.tensor_split((self.sizes.map_queries,), dim=1)
        offsets = self.reg_branch(lanes).unflatten(-1, (-1, 3))
        points = self.volume.denormalise((offsets + inverse_sigmoid(references)).sigmoid())
        output = MapOutput(queries, points, self.cls_branch(lanes))

        best = (
            output.class_logits.sigmoid().amax(dim=-1).topk(self.sizes.kept, dim=1).indices[..., None]
        )  # (B, K, 1)
        kept_points = gather_rows(points.flatten(2), best).unflatten(-1, (-1, 3))
        return output, remembered.remember(gather_rows(lanes, best), kept_points, ego)

"""Detection head: objects and their futures, scene tokens, history tokens, and the ego token.

Source: spec ORION teacher 1.5.
Dimension letters: B slots, N image tokens, S scene queries, L learned queries, K propagated queries,
O = L + K objects, M objects in the memory, H history tokens, A alternative futures, E width, D token width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.teachers.orion.network.attention import CrossDecoder, Decoder, attention_mask
from pipeline.teachers.orion.network.config import DETECTION_RANGE_M
from pipeline.teachers.orion.network.memory import POSITION, YAW, HistoryMemory, QueryMemory, SignalMemory
from pipeline.teachers.orion.network.position import Volume, inverse_sigmoid, time_embedding, time_encoding

if TYPE_CHECKING:
    from pipeline.teachers.orion.network.config import OrionConfig
    from pipeline.teachers.orion.network.memory import EgoMotion, OrionMemory
    from pipeline.teachers.orion.network.position import QueryPositions

BOX_NUMBERS = 10
"""x, y, log width, log length, z, log height, sine and cosine of yaw, velocity x and y."""


@dataclass(frozen=True)
class DetectionOutput:
    """Output of the detection head for one frame of B slots."""

    scene: Tensor
    """(B, S, E) scene queries."""
    history: Tensor
    """(B, H, E) history tokens."""
    ego_token: Tensor
    """(B, D)."""
    boxes: Tensor
    """(B, O, 10): centre x, y in metres in the LiDAR frame, and eight more numbers as trained."""
    class_logits: Tensor
    """(B, O, classes)."""
    futures: Tensor
    """(B, O, A, steps, 2) metres: offset of every 0.5 s step from the step before."""
    future_logits: Tensor
    """(B, O, A)."""

    @property
    def likeliest_future(self) -> Tensor:
        """(B, O, steps, 2): the alternative with the highest logit."""
        best = self.future_logits.argmax(dim=-1)[..., None, None, None]
        return self.futures.gather(2, best.expand(-1, -1, -1, *self.futures.shape[3:])).squeeze(2)


def classifier(width: int, classes: int) -> nn.Sequential:
    """Return three linear layers with layer norms between."""
    return nn.Sequential(
        nn.Linear(width, width),
        nn.LayerNorm(width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.LayerNorm(width),
        nn.ReLU(),
        nn.Linear(width, classes),
    )


def regressor(width: int, numbers: int) -> nn.Sequential:
    """Return three linear layers."""
    return nn.Sequential(
        nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, numbers)
    )


class DetectionHead(nn.Module):
    """Maps image tokens and memory to a ``DetectionOutput`` and new memory."""

    def __init__(self, config: OrionConfig) -> None:
        super().__init__()
        sizes, width, token_width = config.detection, config.width, config.language.width
        self.sizes = sizes
        self.volume = Volume(DETECTION_RANGE_M)
        self.input_projection = nn.Linear(config.backbone.width, width)
        self.query_embedding = nn.Embedding(sizes.scene_queries, width)
        self.reference_points = nn.Embedding(sizes.learned_queries, 3)
        self.pseudo_reference_points = nn.Embedding(sizes.kept, 3)
        self.decoder = Decoder(width, sizes.decoder)
        self.cls_branch = classifier(width, sizes.classes)
        self.reg_branch = regressor(width, BOX_NUMBERS)
        self.output_projection = nn.Linear(width, token_width)

        self.memory_query = nn.Embedding(sizes.history_tokens, width)
        self.scene_time_embedding = time_embedding(width)
        self.memory_decoder_mq = CrossDecoder(width, sizes.decoder.heads, sizes.small_ffn_width)
        self.memory_decoder_cq = CrossDecoder(width, sizes.decoder.heads, sizes.small_ffn_width)
        self.can_bus_embed = nn.Sequential(
            nn.Linear(sizes.ego_inputs, 4 * width), nn.ReLU(), nn.Linear(4 * width, token_width)
        )

        self.motion_mode_query = nn.Embedding(sizes.modes, width)
        self.motion_decoder = CrossDecoder(width, sizes.decoder.heads, sizes.small_ffn_width)
        self.traj_branch = regressor(2 * width, 2 * sizes.steps)
        self.traj_cls_branch = classifier(2 * width, 1)

        mask = attention_mask(sizes.scene_queries, sizes.objects, sizes.memory - sizes.kept)
        self.register_buffer("mask", mask, persistent=False)

    def forward(
        self,
        tokens: Tensor,
        ray_positions: Tensor,
        signals: Tensor,
        ego: EgoMotion,
        memory: OrionMemory,
        query_positions: QueryPositions,
    ) -> tuple[DetectionOutput, QueryMemory, HistoryMemory, SignalMemory]:
        """Process one frame.

        Args:
            tokens: (B, N, backbone width) image tokens.
            ray_positions: (B, N, E).
            signals: (B, 19) float64: command index, then the CAN bus.
            ego: Pose and time of the frame.
            memory: Of the frames before.
            query_positions: Encoder of reference points.

        Returns:
            The detection, and the new memories of objects, history and signals.
        """
        kept = self.sizes.kept
        remembered = self._begin_clips(memory.objects.recall(ego), ego)
        history = memory.history.recall(ego)

        references, contents, positions, memory_positions = self._queries(remembered, query_positions)
        decoded = self.decoder(
            contents,
            positions,
            image=self.input_projection(tokens),
            image_positions=ray_positions,
            memory=remembered.contents[:, kept:],
            memory_positions=memory_positions,
            mask=self.get_buffer("mask"),
        )
        scene, objects = decoded.tensor_split((self.sizes.scene_queries,), dim=1)
        boxes = self.boxes(objects, references)
        class_logits = self.cls_branch(objects)
        history_tokens = self._history_tokens(scene, history)
        futures, future_logits = self._futures(objects)
        output = DetectionOutput(
            scene=scene,
            history=history_tokens,
            ego_token=self._ego_token(signals, memory.signals.recall(signals, ego), remembered.poses),
            boxes=boxes,
            class_logits=class_logits,
            futures=futures,
            future_logits=future_logits,
        )
        best = class_logits.sigmoid().amax(dim=-1).topk(kept, dim=1).indices[..., None]  # (B, K, 1)
        return (
            output,
            remembered.remember(
                gather_rows(objects, best), gather_rows(boxes[..., :3], best)[:, :, None], ego
            ),
            history.remember(history_tokens, ego),
            memory.signals.remember(signals, ego),
        )

    def _begin_clips(self, remembered: QueryMemory, ego: EgoMotion) -> QueryMemory:
        """In a clip's first frame, propagate pseudo objects at learned reference points, not past objects."""
        slots, kept = len(ego.timestamp), self.sizes.kept
        pseudo = self.volume.denormalise(self.pseudo_reference_points.weight)[:, None]
        pseudo = pseudo.expand(slots, -1, -1, -1)
        identity = torch.eye(4, device=pseudo.device).expand(slots, kept, 4, 4)
        continued = ego.continued[:, None, None, None]
        return QueryMemory(
            contents=remembered.contents,
            points=torch.cat(
                (remembered.points[:, :kept].where(continued, pseudo), remembered.points[:, kept:]), dim=1
            ),
            poses=torch.cat(
                (remembered.poses[:, :kept].where(continued, identity), remembered.poses[:, kept:]), dim=1
            ),
            times=remembered.times,
        )

    def _queries(
        self, remembered: QueryMemory, query_positions: QueryPositions
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """References (B, O, 3), contents and positions (B, S + O, E), memory positions (B, M - K, E)."""
        slots, kept = remembered.contents.shape[0], self.sizes.kept
        points = self.volume.normalise(remembered.points)
        memory_positions = query_positions.past(points, remembered.poses, remembered.times)
        learned = self.reference_points.weight
        learned_positions = query_positions.present(learned[:, None])

        scene = self.query_embedding.weight.expand(slots, -1, -1)
        references = torch.cat((learned.expand(slots, -1, -1), points[:, :kept].squeeze(2)), dim=1)
        blank = torch.zeros_like(learned_positions).expand(slots, -1, -1)
        contents = torch.cat((scene, blank, remembered.contents[:, :kept]), dim=1)
        positions = torch.cat(
            (torch.zeros_like(scene), learned_positions.expand(slots, -1, -1), memory_positions[:, :kept]),
            dim=1,
        )
        return references, contents, positions, memory_positions[:, kept:]

    def boxes(self, objects: Tensor, references: Tensor) -> Tensor:
        """Return boxes (B, O, 10) of decoded objects (B, O, E) at normalised reference points (B, O, 3)."""
        # The third number is a log width, and passes the sigmoid like a coordinate, as in training.
        centre, rest = self.reg_branch(objects).tensor_split((3,), dim=-1)
        centre = self.volume.denormalise((centre + inverse_sigmoid(references)).sigmoid())
        return torch.cat((centre, rest), dim=-1)

    def _history_tokens(self, scene: Tensor, history: HistoryMemory) -> Tensor:
        queries = self.memory_query.weight.expand(scene.shape[0], -1, -1)
        ages = self.scene_time_embedding(time_encoding(history.times, scene.shape[-1]))
        past = self.memory_decoder_mq(queries, history.tokens, memory_positions=ages)
        return self.memory_decoder_cq(past, scene)

    def _ego_token(self, signals: Tensor, past: SignalMemory, poses: Tensor) -> Tensor:
        """Return (B, D) from present (B, 19) and past signals, and poses (B, M, 4, 4) of past objects."""
        present = signals.clone()
        present[:, POSITION] = 0
        present[:, YAW] = 0
        motion = poses.unflatten(1, (self.sizes.memory_frames, -1)).mean(dim=2).flatten(1)
        return self.can_bus_embed(torch.cat((present, past.signals.flatten(1), motion), dim=-1).float())

    def _futures(self, objects: Tensor) -> tuple[Tensor, Tensor]:
        """Map objects (B, O, E) to futures (B, O, A, steps, 2) and their logits (B, O, A)."""
        modes = self.motion_mode_query.weight.expand(objects.shape[0], -1, -1)  # (B, A, E)
        queries = (objects[:, :, None] + modes[:, None]).flatten(1, 2)  # (B, O * A, E)
        # All queries attend to each other, and each is a sum.
        decoded = self.motion_decoder(queries, objects, plus=modes).unflatten(1, (-1, self.sizes.modes))
        # Twice the same: the trained branches expect another feature of equal width, which ORION lacks.
        doubled = torch.cat((decoded, decoded), dim=-1)
        futures = self.traj_branch(doubled).unflatten(-1, (self.sizes.steps, 2))
        return futures, self.traj_cls_branch(doubled).squeeze(-1)


def gather_rows(x: Tensor, rows: Tensor) -> Tensor:
    """Return rows (B, K, 1) of x (B, Q, E) as (B, K, E)."""
    return x.gather(1, rows.expand(-1, -1, x.shape[-1]))

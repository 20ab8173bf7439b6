"""ORION, or its vision stack alone, over the frames of several clips: one memory a slot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from cache_schema.vocabulary.orion import PLANNING_TOKEN
from pipeline.teachers.device import make_current
from pipeline.teachers.orion.inputs import collate, prepare
from pipeline.teachers.orion.network.memory import OrionMemory
from pipeline.teachers.orion.network.model import Orion, OrionOutput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from cache_schema.format.features import FeatureSpec
    from pipeline.bench2drive.source import DrivingSample
    from pipeline.teachers.orion.images import ImagePreprocessing
    from pipeline.teachers.orion.inputs import OrionBatch, OrionInputs
    from pipeline.teachers.orion.network.config import OrionConfig
    from pipeline.teachers.orion.network.vision import VisionOutput, VisionStack
    from pipeline.teachers.orion.precision import PrecisionConfig


@dataclass(frozen=True)
class OrionState:
    """Memories of B slots between two frames."""

    clips: tuple[str, ...]
    """(B) clip that each memory is of; empty for none."""
    memory: OrionMemory


class OrionStream:
    """What a model does with frames, step by step; the part of ``Teacher`` that runs.

    Args:
        model: Without weights yet.
        config: Its sizes.
        images: How camera images are prepared.
        features: What it computes of every frame.
        device: Where it runs.
    """

    kind = "driving"
    fresh_inputs = True

    def __init__(
        self,
        model: VisionStack,
        config: OrionConfig,
        images: ImagePreprocessing,
        features: tuple[FeatureSpec, ...],
        *,
        device: str,
    ) -> None:
        self.model = model
        self.config = config
        self.images = images
        self.features = features
        self.device = device
        self.shrink_on = torch.device(device) if torch.device(device).type == "cuda" else None
        """Where images are shrunk; None: by Pillow in the threads that decode them, faster on a CPU."""

    def prepare(self, sample: DrivingSample) -> OrionInputs:
        """Decode the images of a frame, and shrink them unless a GPU does; see ``Teacher``."""
        return prepare(sample, self.images, shrink=self.shrink_on is None)

    def collate(self, inputs: Sequence[OrionInputs | None]) -> OrionBatch:
        """Stack one row a slot; see ``Teacher``."""
        return collate(inputs, self.images, shrink_on=self.shrink_on)

    def begin(self, slots: int) -> OrionState:
        """Return empty memories for ``slots`` clips."""
        make_current(self.device)
        return OrionState(("",) * slots, OrionMemory.empty(self.config, slots, self.device))

    def step(self, batch: OrionBatch, state: OrionState) -> tuple[dict[str, Tensor], OrionState]:
        """Compute the features of one frame a slot.

        Args:
            batch: The next frame of each of B slots.
            state: Memories of these slots. It stays as it is.

        Returns:
            A (B, *shape) tensor for each feature, on the model's device and in the type it is stored in
            (infinity where it is too large for that), and the new memories. A slot's memory is cleared when
            its clip changes or 2 s or more have passed.
        """
        output, state = self.forward(batch, state)
        values = features_of(output)
        return {spec.name: values[spec.name].to(getattr(torch, spec.dtype)) for spec in self.features}, state

    @torch.inference_mode()
    def forward(self, batch: OrionBatch, state: OrionState) -> tuple[VisionOutput, OrionState]:
        """Run the model; like ``step``, but return its whole output, in float32."""

        def on_device(x: Tensor) -> Tensor:
            return x.to(self.device, non_blocking=True)

        same_clip = torch.tensor(
            [now == before for now, before in zip(batch.clips, state.clips, strict=True)]
        )
        img2lidar, _ = torch.linalg.inv_ex(batch.lidar2img)  # which raises nothing for an idle slot
        if batch.command.is_pinned():  # otherwise a copy may wait for what the GPU still computes
            same_clip, img2lidar = same_clip.pin_memory(), img2lidar.pin_memory()
        command, can_bus = on_device(batch.command), on_device(batch.can_bus)
        output, memory = self.model(
            self.images.normalise(on_device(batch.images)),
            on_device(img2lidar),
            on_device(batch.ego_pose),
            on_device(batch.ego_pose_inv),
            on_device(batch.timestamp_s),
            torch.cat((command[:, None].double(), can_bus), dim=-1),
            on_device(same_clip),
            state.memory,
        )
        return output, OrionState(batch.clips, memory)


def complete(model: VisionStack, precision: PrecisionConfig, device: str) -> None:
    """Prepare a model whose weights have all been placed on a device for its first frame."""
    for module in model.modules():
        for key, constant in module.named_buffers(recurse=False):
            setattr(module, key, constant.to(device))
    precision.prepare_heads(model, device)
    # On a CPU results stay what they were, to the last bit.
    if isinstance(model, Orion) and torch.device(device).type != "cpu":
        model.language_model.cache_prefix()


def features_of(output: VisionOutput) -> dict[str, Tensor]:
    """Return the features by name, in float32."""
    detection, road_map = output.detection, output.road_map
    features = {
        "scene_queries": torch.cat((detection.scene, detection.history, road_map.queries), dim=1),
        "ego_token": detection.ego_token,
        "lane_points": road_map.points[..., :2],
        "lane_logits": road_map.class_logits,
        "agent_xy": detection.boxes[..., :2],
        "agent_class_scores": detection.class_logits.sigmoid(),
        "agent_offsets": detection.likeliest_future,
    }
    if isinstance(output, OrionOutput):
        features[PLANNING_TOKEN] = output.planning_token
    return features

"""ORION from images to planning token.

Source: spec ORION teacher 0.
Dimension letters: B slots, D token width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.teachers.orion.network.language_model import LanguageModel, decoder_layer
from pipeline.teachers.orion.network.vision import VisionOutput, VisionStack, compiled

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.teachers.orion.network.config import OrionConfig
    from pipeline.teachers.orion.network.memory import OrionMemory


@dataclass(frozen=True)
class OrionOutput(VisionOutput):
    """Output of ORION for one frame of B slots."""

    planning_token: Tensor
    """(B, D)."""


class Orion(VisionStack):
    """The model from images to planning token; the planner is not part of it."""

    def __init__(self, config: OrionConfig) -> None:
        super().__init__(config)
        self.language_model = LanguageModel(config.language, config.vision_tokens)

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
    ) -> tuple[OrionOutput, OrionMemory]:
        """Process one frame of every slot; arguments as of ``VisionStack``."""
        seen, memory = super().forward(
            images, img2lidar, pose, pose_inv, timestamp, signals, same_clip, memory
        )
        planning_token = self.language_model(self.vision_tokens(seen)).float()
        return OrionOutput(seen.detection, seen.road_map, planning_token), memory

    def compile_layers(self, *, language_model: bool = True) -> None:
        """Compile the layers of the backbone and of the language model, each kind once; see ``VisionStack``.

        Args:
            language_model: Whether its layers can be compiled, too.
        """
        super().compile_layers()
        if language_model:
            self.language_model.apply_layer = compiled(decoder_layer)

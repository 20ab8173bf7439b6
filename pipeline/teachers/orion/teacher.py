"""ORION as a ``Teacher``: frames in, features out, memories per slot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from cache_schema.manifest import TeacherIdentity
from pipeline.teachers.orion.checkpoint import as_json, digest, read_weights
from pipeline.teachers.orion.memory import OrionMemory
from pipeline.teachers.orion.weights import (
    PLANNER_PREFIX,
    build,
    model_shapes,
    planner_shapes,
    random_weights,
)

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from pipeline.teachers.orion.model import OrionOutput
    from pipeline.teachers.orion.presets import OrionPreset
    from pipeline.teachers.protocol import FrameBatch


@dataclass(frozen=True)
class OrionState:
    """Memories of B slots between two frames."""

    clips: tuple[str, ...]
    """(B) clip that each memory is of; empty for none."""
    memory: OrionMemory


class OrionTeacher:
    """A frozen ORION; implements ``Teacher``.

    Args:
        preset: Sizes, name and preprocessing.
        source: A checkpoint, or the seed of random weights.
        device: Where it runs.
    """

    def __init__(self, preset: OrionPreset, source: Path | int, *, device: str) -> None:
        self.features = preset.features
        self.images = preset.images
        self.config = preset.config
        self.device = device
        if isinstance(source, int):
            weights = dict(random_weights(model_shapes(preset.config), source))
            # Drawn only when asked for, because at full token width it outweighs a tiny model by far.
            self._planner = lambda: dict(random_weights(planner_shapes(preset.config), source))
            origin = f"random:{source}"
        else:
            weights = dict(read_weights(source, preset.config))
            origin = digest(weights.items())
            planner = {
                name.removeprefix(PLANNER_PREFIX): weights.pop(name)
                for name in list(weights)
                if name.startswith(PLANNER_PREFIX)
            }
            self._planner = lambda: planner
        self.model = build(preset.config)
        self.model.load_state_dict(
            {name: weights.pop(name).to(device) for name in list(weights)}, assign=True
        )
        self.model.to(device).requires_grad_(False)
        self.identity = TeacherIdentity(
            name=preset.name,
            weights=origin,
            precision="fp32",
            prompt=preset.config.language.prompt,
            preprocessing=as_json(preset.images),
            architecture=as_json(preset.config),
        )

    def begin(self, slots: int) -> OrionState:
        """Empty memories for ``slots`` clips."""
        return OrionState(("",) * slots, OrionMemory.empty(self.config, slots, self.device))

    @torch.inference_mode()
    def step(self, frames: FrameBatch, state: OrionState) -> tuple[dict[str, Tensor], OrionState]:
        """Look at one frame a slot.

        Args:
            frames: The next frame of each of B slots.
            state: Memories of these slots. It stays as it is.

        Returns:
            A (B, *shape) float32 tensor for each feature, on the teacher's device, and the new memories. A
            slot's memory starts afresh when its clip changes or 2 s or more have passed.
        """
        same_clip = [now == before for now, before in zip(frames.clips, state.clips, strict=True)]
        signals = torch.cat((frames.command[:, None].double(), frames.can_bus), dim=-1)
        said, memory = self.model(
            self.images.normalise(frames.images.to(self.device)),
            frames.lidar2img.to(self.device),
            frames.ego_pose.to(self.device),
            frames.ego_pose_inv.to(self.device),
            frames.timestamp.to(self.device),
            signals.to(self.device),
            torch.tensor(same_clip).to(self.device),
            state.memory,
        )
        return spoken(said), OrionState(frames.clips, memory)

    def assets(self) -> dict[str, dict[str, Tensor]]:
        """The projections of scene queries to vision tokens, and the planner under its checkpoint names."""
        scene, lanes = self.model.pts_bbox_head.output_projection, self.model.map_head.output_projection
        heads = {
            "scene.weight": scene.weight,
            "scene.bias": scene.bias,
            "map.weight": lanes.weight,
            "map.bias": lanes.bias,
        }
        return {
            "teacher_heads": {name: weight.detach().cpu() for name, weight in heads.items()},
            "teacher_planner": self._planner(),
        }


def spoken(said: OrionOutput) -> dict[str, Tensor]:
    """Features by name."""
    detection, road_map = said.detection, said.road_map
    return {
        "scene_queries": torch.cat((detection.scene, detection.history, road_map.queries), dim=1),
        "ego_token": detection.ego_token,
        "planning_token": said.planning_token,
        "lane_points": road_map.points[..., :2],
        "lane_logits": road_map.class_logits,
        "agent_xy": detection.boxes[..., :2],
        "agent_class_scores": detection.class_logits.sigmoid(),
        "agent_offsets": detection.likeliest_future,
    }

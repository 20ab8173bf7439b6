"""ORION as a ``Teacher``: frames in, features out, memories per slot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from cache_schema.format.manifest import TeacherIdentity
from cache_schema.vocabulary.orion import planner_shapes
from pipeline.teachers.orion.checkpoints.reader import Fingerprint, as_json, read_weights
from pipeline.teachers.orion.checkpoints.tensors import (
    PLANNER_PREFIX,
    build,
    model_shapes,
    random_weights,
)
from pipeline.teachers.orion.network.memory import OrionMemory

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from pipeline.teachers.orion.network.model import OrionOutput
    from pipeline.teachers.orion.precision import Arithmetic
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
        arithmetic: In which numbers it computes.
    """

    def __init__(
        self, preset: OrionPreset, source: Path | int, *, device: str, arithmetic: Arithmetic
    ) -> None:
        self.features = preset.features
        self.images = preset.images
        self.config = preset.config
        self.device = device
        self.model = build(preset.config)
        # One weight at a time, so that host and device hold no more than what is computed with.
        if isinstance(source, int):
            for name, weight in random_weights(model_shapes(preset.config), source):
                arithmetic.place(self.model, name, weight, device)
            # Drawn only when asked for, because at full token width it outweighs a tiny model by far.
            self._planner = lambda: dict(random_weights(planner_shapes(preset.config.language.width), source))
            origin = f"random:{source}"
        else:
            fingerprint, planner = Fingerprint(), {}
            for name, weight in read_weights(source, preset.config):
                fingerprint.add(name, weight)
                if name.startswith(PLANNER_PREFIX):
                    planner[name.removeprefix(PLANNER_PREFIX)] = weight
                else:
                    arithmetic.place(self.model, name, weight, device)
            self._planner = lambda: planner
            origin = str(fingerprint)
        self.model.to(device)
        self.identity = TeacherIdentity(
            name=preset.name,
            weights=origin,
            precision=arithmetic.description,
            quantization=arithmetic.quantize,
            prompt=preset.config.language.prompt,
            preprocessing=as_json(preset.images),
            architecture=as_json(preset.config),
        )

    def begin(self, slots: int) -> OrionState:
        """Empty memories for ``slots`` clips."""
        return OrionState(("",) * slots, OrionMemory.empty(self.config, slots, self.device))

    def step(self, frames: FrameBatch, state: OrionState) -> tuple[dict[str, Tensor], OrionState]:
        """Look at one frame a slot.

        Args:
            frames: The next frame of each of B slots.
            state: Memories of these slots. It stays as it is.

        Returns:
            A (B, *shape) tensor for each feature, on the teacher's device and in the type it is stored in
            (infinity where it is too large for that), and the new memories. A slot's memory starts afresh
            when its clip changes or 2 s or more have passed.
        """
        said, state = self.look(frames, state)
        values = spoken(said)
        return {spec.name: values[spec.name].to(getattr(torch, spec.dtype)) for spec in self.features}, state

    @torch.inference_mode()
    def look(self, frames: FrameBatch, state: OrionState) -> tuple[OrionOutput, OrionState]:
        """The same as ``step``, but all that the model says, in float32."""

        def on_device(x: Tensor) -> Tensor:
            return x.to(self.device, non_blocking=True)

        same_clip = [now == before for now, before in zip(frames.clips, state.clips, strict=True)]
        signals = torch.cat((frames.command[:, None].double(), frames.can_bus), dim=-1)
        said, memory = self.model(
            self.images.normalise(on_device(frames.images)),
            on_device(frames.lidar2img),
            on_device(frames.ego_pose),
            on_device(frames.ego_pose_inv),
            on_device(frames.timestamp),
            on_device(signals),
            on_device(torch.tensor(same_clip)),
            state.memory,
        )
        return said, OrionState(frames.clips, memory)

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
    """Features by name, in float32."""
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

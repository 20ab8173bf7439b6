"""ORION as a ``Teacher``: frames in, features out, one memory a slot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from cache_schema.format.manifest import TeacherIdentity
from cache_schema.progress import SILENT
from cache_schema.vocabulary.orion import planner_shapes
from pipeline.teachers.device import make_current
from pipeline.teachers.orion.checkpoints.reader import as_json, read_weights
from pipeline.teachers.orion.checkpoints.tensors import (
    PLANNER_PREFIX,
    build,
    model_shapes,
    random_weights,
    teacher_shapes,
)
from pipeline.teachers.orion.features import orion_features
from pipeline.teachers.orion.inputs import collate, prepare
from pipeline.teachers.orion.network.memory import OrionMemory
from pipeline.teachers.precision import compute_exact_float32
from pipeline.teachers.weights import Fingerprint, random_origin

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from cache_schema.progress import Progress
    from pipeline.bench2drive.source import DrivingSample
    from pipeline.teachers.orion.images import ImagePreprocessing
    from pipeline.teachers.orion.inputs import OrionBatch, OrionInputs
    from pipeline.teachers.orion.network.config import OrionConfig
    from pipeline.teachers.orion.network.model import Orion, OrionOutput
    from pipeline.teachers.orion.precision import PrecisionConfig


@dataclass(frozen=True)
class OrionState:
    """Memories of B slots between two frames."""

    clips: tuple[str, ...]
    """(B) clip that each memory is of; empty for none."""
    memory: OrionMemory


class OrionTeacher:
    """A frozen ORION; implements ``Teacher``.

    Args:
        name: Part of its identity.
        config: Sizes.
        images: How camera images are prepared.
        weights: A checkpoint, or the seed of random weights.
        device: Where it runs.
        precision: Number formats that it computes in.
        compiled: Whether its layers are compiled.
        random_device: Where random weights are drawn; see ``random_weights``.
        progress: Counts tensors.
    """

    kind = "driving"
    fresh_inputs = True

    def __init__(
        self,
        name: str,
        config: OrionConfig,
        images: ImagePreprocessing,
        weights: Path | int,
        *,
        device: str,
        precision: PrecisionConfig,
        compiled: bool = False,
        random_device: str = "cpu",
        progress: Progress = SILENT,
    ) -> None:
        self.features = orion_features(config)
        self.images = images
        self.config = config
        self.device = device
        self.compiled = compiled
        self.shrink_on = torch.device(device) if torch.device(device).type == "cuda" else None
        """Where images are shrunk; None: by Pillow in the threads that decode them, faster on a CPU."""
        self.model = build(config)
        compute_exact_float32()
        # One weight at a time, so that host and device hold no more than what is computed with.
        if isinstance(weights, int):
            shapes = model_shapes(config)
            progress.expect(len(shapes))
            for key, weight in random_weights(shapes, weights, random_device):
                precision.place(self.model, key, weight, device)
                progress.advance()
            # Drawn only when needed: at full token width it is far larger than a tiny model.
            planner_sizes = planner_shapes(config.language.width)
            self._planner = lambda: {
                key: weight.cpu() for key, weight in random_weights(planner_sizes, weights, random_device)
            }
            origin = random_origin(weights, random_device)
        else:
            fingerprint, planner = Fingerprint(), {}
            progress.expect(len(teacher_shapes(config)))
            for key, weight in read_weights(weights, config):
                fingerprint.add(key, weight)
                if key.startswith(PLANNER_PREFIX):
                    planner[key.removeprefix(PLANNER_PREFIX)] = weight
                else:
                    precision.place(self.model, key, weight, device)
                progress.advance()
            self._planner = lambda: planner
            origin = str(fingerprint)
        complete(self.model, precision, device)
        if compiled:
            self.model.compile_layers(language_model=precision.compiles)
        self.identity = TeacherIdentity(
            name=name,
            weights=origin,
            precision=precision.description(device),
            quantization=precision.quantize,
            prompt=config.language.prompt,
            preprocessing=as_json(images),
            architecture=as_json(config),
        )

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
            A (B, *shape) tensor for each feature, on the teacher's device and in the type it is stored in
            (infinity where it is too large for that), and the new memories. A slot's memory is cleared when
            its clip changes or 2 s or more have passed.
        """
        output, state = self.forward(batch, state)
        values = features_of(output)
        return {spec.name: values[spec.name].to(getattr(torch, spec.dtype)) for spec in self.features}, state

    @torch.inference_mode()
    def forward(self, batch: OrionBatch, state: OrionState) -> tuple[OrionOutput, OrionState]:
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

    def assets(self) -> dict[str, dict[str, Tensor]]:
        """Return the projections of queries to vision tokens, and the planner by its checkpoint names."""
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


def complete(model: Orion, precision: PrecisionConfig, device: str) -> None:
    """Prepare a model whose weights have all been placed on a device for its first frame."""
    for module in model.modules():
        for key, constant in module.named_buffers(recurse=False):
            setattr(module, key, constant.to(device))
    precision.prepare_heads(model, device)
    if torch.device(device).type != "cpu":  # whose results stay what they were, to the last bit
        model.language_model.cache_prefix()


def features_of(output: OrionOutput) -> dict[str, Tensor]:
    """Return the features by name, in float32."""
    detection, road_map = output.detection, output.road_map
    return {
        "scene_queries": torch.cat((detection.scene, detection.history, road_map.queries), dim=1),
        "ego_token": detection.ego_token,
        "planning_token": output.planning_token,
        "lane_points": road_map.points[..., :2],
        "lane_logits": road_map.class_logits,
        "agent_xy": detection.boxes[..., :2],
        "agent_class_scores": detection.class_logits.sigmoid(),
        "agent_offsets": detection.likeliest_future,
    }

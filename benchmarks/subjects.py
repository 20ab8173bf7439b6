"""Teachers that benchmarks look through: each says what a dataset stores, and what the reference stores.

Dimension letters: B slots, N vision tokens, D token width, O objects, A their alternative futures, L lanes.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from cache_schema.format.manifest import TeacherIdentity
from pipeline.teachers.orion.images import ImagePreprocessing
from pipeline.teachers.orion.inputs import collate, prepare
from pipeline.teachers.orion.network.config import DETECTION_RANGE_M, BackboneConfig, DecoderConfig
from pipeline.teachers.orion.presets import ORION_7B
from pipeline.teachers.orion.teacher import features_of
from pipeline.teachers.protocol import Teacher

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.bench2drive.source import DrivingSample
    from pipeline.teachers.orion.inputs import OrionBatch, OrionInputs
    from pipeline.teachers.orion.teacher import OrionState

_RELEASED = ORION_7B.config
_DECODER = DecoderConfig(layers=1, heads=4, ffn_width=256)

MID_WIDTH = dataclasses.replace(
    ORION_7B,
    name="orion-mid-width",
    images=ImagePreprocessing(network=(320, 320)),
    random_seed=0,
    config=dataclasses.replace(
        _RELEASED,
        width=64,
        backbone=BackboneConfig(
            image_size=320, width=384, heads=6, depth=4, mlp_width=1024, global_blocks=(1, 3)
        ),
        detection=dataclasses.replace(_RELEASED.detection, small_ffn_width=64, decoder=_DECODER),
        lanes=dataclasses.replace(_RELEASED.lanes, decoder=_DECODER),
        language=dataclasses.replace(_RELEASED.language, layers=2, mlp_width=2752),
    ),
)
"""As many tokens, objects and lanes as released, and tokens as wide; otherwise as much as a CPU can do, most
of it in the backbone and the language model, as released."""


class Subject(Teacher, Protocol):
    """A teacher that can also be asked as the reference asks."""

    @property
    def images(self) -> ImagePreprocessing:
        """How camera images are prepared."""
        ...

    def step_for_reference(self, frames: OrionBatch, state: Any) -> tuple[dict[str, Tensor], Any]:
        """Like ``step``, but what the reference stores, under its names, in float16."""
        ...


class Driving:
    """What both read of a frame."""

    kind = "driving"
    images: ImagePreprocessing

    def prepare(self, sample: DrivingSample) -> OrionInputs:
        """See ``Teacher``."""
        return prepare(sample, self.images)

    def collate(self, inputs: Sequence[OrionInputs | None]) -> OrionBatch:
        """See ``Teacher``."""
        return collate(inputs, self.images)


class MidWidth(Driving):
    """ORION with random weights, computed; a ``Subject``. Its planner's 420 M weights stay away.

    Args:
        precision: As ``extract`` takes it.
    """

    def __init__(self, precision: str) -> None:
        self._orion = MID_WIDTH.load(None, device="cpu", precision=precision)
        self.features, self.identity, self.images = MID_WIDTH.features, self._orion.identity, MID_WIDTH.images
        # Asked for once: the planner, which comes along, takes seconds to draw.
        self._heads = self._orion.assets()["teacher_heads"]
        self._vision: list[Tensor] = []
        self._orion.model.language_model.register_forward_pre_hook(self._see)

    def begin(self, slots: int) -> OrionState:
        """See ``Teacher``."""
        return self._orion.begin(slots)

    def step(self, frames: OrionBatch, state: OrionState) -> tuple[dict[str, Tensor], OrionState]:
        """See ``Teacher``."""
        return self._orion.step(frames, state)

    def step_for_reference(
        self, frames: OrionBatch, state: OrionState
    ) -> tuple[dict[str, Tensor], OrionState]:
        """See ``Subject``."""
        said, state = self._orion.forward(frames, state)
        values = features_of(said)
        kept = {
            "visual_queries": self._vision.pop(),  # (B, N, D)
            "planning_token": said.planning_token[:, None],  # (B, 1, D)
            "lane_scores": values["lane_logits"],  # (B, L, 6)
            "lane_preds": values["lane_points"].clamp(DETECTION_RANGE_M[0], DETECTION_RANGE_M[3]),
            "agent_preds": values["agent_xy"],  # (B, O, 2)
            "agent_fut_preds": said.detection.futures,  # (B, O, A, 6, 2)
            "agent_score_preds": values["agent_class_scores"],  # (B, O, 9)
            "agent_fut_cls_preds": said.detection.future_logits.sigmoid(),  # (B, O, A)
        }
        return {name: tensor.half() for name, tensor in kept.items()}, state

    def assets(self) -> dict[str, dict[str, Tensor]]:
        """See ``Teacher``."""
        return {"teacher_heads": self._heads}

    def _see(self, module: torch.nn.Module, given: tuple[Tensor]) -> None:
        del module
        self._vision[:] = given


class Pretender(Driving):
    """Says what the released ORION says, in size, but noise, and always the same; a ``Subject``.

    Args:
        frame_s: Seconds that it sleeps over a frame, as if a GPU were at work.
    """

    def __init__(self, frame_s: float) -> None:
        self.frame_s = frame_s
        self.features, self.images = ORION_7B.features, ORION_7B.images
        self.identity = TeacherIdentity(name="pretender", weights="none", precision="none")
        detection, lanes = _RELEASED.detection, _RELEASED.lanes
        shapes = {
            "visual_queries": (_RELEASED.vision_tokens, _RELEASED.language.width),
            "planning_token": (1, _RELEASED.language.width),
            "lane_scores": (lanes.lanes, lanes.classes),
            "lane_preds": (lanes.lanes, _RELEASED.lane_points, 2),
            "agent_preds": (detection.objects, 2),
            "agent_fut_preds": (detection.objects, detection.modes, detection.steps, 2),
            "agent_score_preds": (detection.objects, detection.classes),
            "agent_fut_cls_preds": (detection.objects, detection.modes),
        }
        noise = torch.Generator().manual_seed(0)
        self._reference = {
            name: torch.randn(1, *shape, generator=noise).half() for name, shape in shapes.items()
        }
        self._values = {
            spec.name: torch.randn(1, *spec.shape, generator=noise).half() for spec in self.features
        }

    def begin(self, slots: int) -> None:
        """It remembers nothing."""

    def step(self, frames: OrionBatch, state: None) -> tuple[dict[str, Tensor], None]:
        """See ``Teacher``."""
        slots = len(frames.clips)
        time.sleep(slots * self.frame_s)
        return {name: value.expand(slots, *value.shape[1:]) for name, value in self._values.items()}, state

    def step_for_reference(self, frames: OrionBatch, state: None) -> tuple[dict[str, Tensor], None]:
        """See ``Subject``."""
        time.sleep(len(frames.clips) * self.frame_s)
        return self._reference, state

    def assets(self) -> dict[str, dict[str, Tensor]]:
        """None."""
        return {}

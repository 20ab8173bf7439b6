"""Teachers that benchmarks run: each computes what a latent dataset stores, or what the reference stores.

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
from pipeline.teachers.orion.stream import features_of
from pipeline.teachers.protocol import Teacher

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.bench2drive.source import DrivingSample
    from pipeline.teachers.orion.inputs import OrionBatch, OrionInputs
    from pipeline.teachers.orion.stream import OrionState

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
"""ORION with the released numbers of tokens, objects and lanes and the released token width, otherwise small
enough for a CPU. As in the released model, most of the computation is in the backbone and language model."""


class BenchmarkTeacher(Teacher, Protocol):
    """A teacher that can also compute what the reference stores."""

    @property
    def images(self) -> ImagePreprocessing:
        """How camera images are prepared."""
        ...

    def reference_step(self, batch: OrionBatch, state: Any) -> tuple[dict[str, Tensor], Any]:
        """Like ``step``, but return what the reference stores, under the reference's names, in float16."""
        ...


class OrionPreprocessing:
    """The part of a ``Teacher`` that both teachers share: ORION's preparation of a frame."""

    kind = "driving"
    fresh_inputs = True
    images: ImagePreprocessing

    def prepare(self, sample: DrivingSample) -> OrionInputs:
        """See ``Teacher``."""
        return prepare(sample, self.images)

    def collate(self, inputs: Sequence[OrionInputs | None]) -> OrionBatch:
        """See ``Teacher``."""
        return collate(inputs, self.images)


class MidWidthOrion(OrionPreprocessing):
    """``MID_WIDTH`` with random weights; implements ``BenchmarkTeacher``.

    Args:
        precision: Precision of the backbone and the language model.
    """

    def __init__(self, precision: str) -> None:
        self._orion = MID_WIDTH.load(None, device="cpu", precision=precision)
        self.features, self.identity, self.images = MID_WIDTH.features, self._orion.identity, MID_WIDTH.images
        # Read once, because ``assets`` also draws the planner's 420 M random weights, which takes seconds.
        self._heads = self._orion.assets()["teacher_heads"]
        self._vision_tokens: list[Tensor] = []
        self._orion.model.language_model.register_forward_pre_hook(self._keep_vision_tokens)

    def begin(self, slots: int) -> OrionState:
        """See ``Teacher``."""
        return self._orion.begin(slots)

    def step(self, batch: OrionBatch, state: OrionState) -> tuple[dict[str, Tensor], OrionState]:
        """See ``Teacher``."""
        return self._orion.step(batch, state)

    def reference_step(self, batch: OrionBatch, state: OrionState) -> tuple[dict[str, Tensor], OrionState]:
        """See ``BenchmarkTeacher``."""
        output, state = self._orion.forward(batch, state)
        values = features_of(output)
        stored = {
            "visual_queries": self._vision_tokens.pop(),  # (B, N, D)
            "planning_token": output.planning_token[:, None],  # (B, 1, D)
            "lane_scores": values["lane_logits"],  # (B, L, 6)
            "lane_preds": values["lane_points"].clamp(DETECTION_RANGE_M[0], DETECTION_RANGE_M[3]),
            "agent_preds": values["agent_xy"],  # (B, O, 2)
            "agent_fut_preds": output.detection.futures,  # (B, O, A, 6, 2)
            "agent_score_preds": values["agent_class_scores"],  # (B, O, 9)
            "agent_fut_cls_preds": output.detection.future_logits.sigmoid(),  # (B, O, A)
        }
        return {name: tensor.half() for name, tensor in stored.items()}, state

    def assets(self) -> dict[str, dict[str, Tensor]]:
        """Return the heads; the planner is left out, so that datasets stay small."""
        return {"teacher_heads": self._heads}

    def _keep_vision_tokens(self, module: torch.nn.Module, inputs: tuple[Tensor]) -> None:
        del module
        self._vision_tokens[:] = inputs


class NoiseTeacher(OrionPreprocessing):
    """Returns the same noise for every frame, in ORION's released shapes; implements ``BenchmarkTeacher``.

    Args:
        frame_s: Seconds that it sleeps for each frame, as if a GPU were computing.
    """

    def __init__(self, frame_s: float) -> None:
        self.frame_s = frame_s
        self.features, self.images = ORION_7B.features, ORION_7B.images
        self.identity = TeacherIdentity(name="noise", weights="none", precision="none")
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
            name: torch.randn((1, *shape), generator=noise).half() for name, shape in shapes.items()
        }
        self._features = {
            spec.name: torch.randn((1, *spec.fixed_shape), generator=noise).half() for spec in self.features
        }

    def begin(self, slots: int) -> None:
        """It has no state."""

    def step(self, batch: OrionBatch, state: None) -> tuple[dict[str, Tensor], None]:
        """See ``Teacher``."""
        slots = len(batch.clips)
        time.sleep(slots * self.frame_s)
        return {name: value.expand(slots, *value.shape[1:]) for name, value in self._features.items()}, state

    def reference_step(self, batch: OrionBatch, state: None) -> tuple[dict[str, Tensor], None]:
        """See ``BenchmarkTeacher``."""
        time.sleep(len(batch.clips) * self.frame_s)
        return self._reference, state

    def assets(self) -> dict[str, dict[str, Tensor]]:
        """Return no assets."""
        return {}

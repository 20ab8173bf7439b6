"""The sizes of ORION: as released, and small enough for a laptop."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from cache_schema.errors import RequestError
from cache_schema.progress import SILENT
from pipeline.teachers.orion.features import orion_features, vision_features
from pipeline.teachers.orion.images import ImagePreprocessing
from pipeline.teachers.orion.network.config import (
    BackboneConfig,
    DecoderConfig,
    DetectionConfig,
    LanguageConfig,
    MapConfig,
    OrionConfig,
)
from pipeline.teachers.orion.network.prompt import IMAGE_PLACEHOLDER

if TYPE_CHECKING:
    from cache_schema.format.features import FeatureSpec
    from cache_schema.progress import Progress
    from pipeline.teachers.orion.teacher import OrionTeacher
    from pipeline.teachers.orion.vision import OrionVision


@dataclass(frozen=True)
class OrionPreset:
    """An ORION of certain sizes, before its weights are read; implements ``TeacherPreset``."""

    kind: ClassVar[str] = "driving"
    name: str
    """Part of the teacher's identity."""
    config: OrionConfig
    """Sizes."""
    images: ImagePreprocessing = field(default_factory=ImagePreprocessing)
    """How camera images are prepared."""
    weights: Path | None = None
    """Folder of weights as ``convert`` writes one, for where no checkpoint is given."""
    random_seed: int | None = None
    """Seed of random weights, for where neither is given; None: a checkpoint must be given."""
    random_device: str = "cpu"
    """Where these weights are drawn. Another kind of device draws other weights, as the identity records."""

    def __post_init__(self) -> None:
        side = self.config.backbone.image_size
        if self.images.network != (side, side):
            raise ValueError(
                f"images are prepared as {self.images.network}, the backbone takes {side}x{side}"
            )

    @property
    def features(self) -> tuple[FeatureSpec, ...]:
        """Features that the teacher computes of every frame."""
        return orion_features(self.config)

    @property
    def vision_features(self) -> tuple[FeatureSpec, ...]:
        """Features that its vision alone computes."""
        return vision_features(self.config)

    def load(
        self,
        checkpoint: Path | None,
        *,
        device: str,
        precision: str = "fp32",
        quantize: str | None = None,
        compile: bool = False,
        progress: Progress = SILENT,
    ) -> OrionTeacher:
        """Build the teacher; see ``TeacherPreset``.

        Raises:
            CheckpointError: The checkpoint does not fit the sizes.
            RequestError: No checkpoint is given, and this preset has no weights of its own; or precision and
                quantisation are unknown, or do not go together or with the device.
        """
        weights = self._weights(checkpoint)
        # transformers takes seconds to import, and a preset's features are read without loading it.
        from pipeline.teachers.orion.precision import PrecisionConfig, check_device
        from pipeline.teachers.orion.teacher import OrionTeacher

        chosen = PrecisionConfig(precision, quantize)
        check_device(chosen, device)
        return OrionTeacher(
            self.name,
            self.config,
            self.images,
            weights,
            device=device,
            precision=chosen,
            compiled=compile,
            random_device=self.random_device,
            progress=progress,
        )

    def load_vision(
        self,
        checkpoint: Path | None,
        *,
        device: str,
        precision: str = "fp32",
        compile: bool = False,
        whole: bool = False,
        progress: Progress = SILENT,
    ) -> OrionVision:
        """Build the teacher's vision, or the ``whole`` teacher; other arguments and errors as of ``load``."""
        weights = self._weights(checkpoint)
        from pipeline.teachers.orion.precision import PrecisionConfig
        from pipeline.teachers.orion.vision import OrionVision

        return OrionVision(
            self.name,
            self.config,
            self.images,
            weights,
            device=device,
            precision=PrecisionConfig(precision),
            compiled=compile,
            random_device=self.random_device,
            whole=whole,
            progress=progress,
        )

    def _weights(self, checkpoint: Path | None) -> Path | int:
        """Return where weights come from: a checkpoint, the preset's own, or the seed of random ones."""
        weights = checkpoint or self.weights
        weights = self.random_seed if weights is None else weights
        if weights is None:
            raise RequestError(
                f"the teacher {self.name} needs a checkpoint",
                expected="--checkpoint with Orion.pth, or a folder made from it by `teachonce convert`",
                repair="download the released weights and give their path, or try orion-tiny",
            )
        return weights

    def convert(self, checkpoint: Path, folder: Path, *, progress: Progress = SILENT) -> None:
        """Write a checkpoint of these sizes as sharded safetensors; see ``convert``."""
        from pipeline.teachers.orion.checkpoints.convert import convert

        convert(checkpoint, folder, config=self.config, progress=progress)


ORION_7B = OrionPreset(name="orion-7b", config=OrionConfig())
"""The released model."""

_TINY_DECODER = DecoderConfig(layers=2, heads=4, ffn_width=64)
_TINY_WAYPOINT = 128

ORION_TINY_RANDOM = OrionPreset(
    name="orion-tiny-random",
    config=OrionConfig(
        width=32,
        depths=16,
        backbone=BackboneConfig(
            image_size=96, width=48, heads=3, depth=3, mlp_width=128, window=4, global_blocks=(2,)
        ),
        detection=DetectionConfig(
            scene_queries=16,
            learned_queries=20,
            kept=10,
            history_tokens=4,
            history=16,
            small_ffn_width=64,
            decoder=_TINY_DECODER,
        ),
        lanes=MapConfig(map_queries=16, lanes=10, trained_lanes=60, kept=10, decoder=_TINY_DECODER),
        language=LanguageConfig(
            vocabulary=_TINY_WAYPOINT + 1,
            width=128,
            mlp_width=256,
            layers=2,
            heads=4,
            max_positions=256,
            lora_rank=4,
            prompt=(1, 11, 12, 13, IMAGE_PLACEHOLDER, 14, 15, 16, 17, _TINY_WAYPOINT, 2),
            waypoint=_TINY_WAYPOINT,
        ),
    ),
    images=ImagePreprocessing(resized=(96, 54), crop_top=6, network=(96, 96)),
    random_seed=0,
)
"""The same code with small numbers and random weights."""

_WIDER_DECODER = replace(_TINY_DECODER, ffn_width=128)
_TINY = ORION_TINY_RANDOM.config

ORION_TINY = OrionPreset(
    name="orion-tiny",
    config=replace(
        _TINY,
        width=64,
        backbone=replace(_TINY.backbone, image_size=128, width=64, heads=4, mlp_width=192),
        detection=replace(
            _TINY.detection,
            learned_queries=240,
            kept=16,
            modes=1,
            small_ffn_width=128,
            decoder=_WIDER_DECODER,
        ),
        lanes=replace(_TINY.lanes, decoder=_WIDER_DECODER),
    ),
    images=ImagePreprocessing(resized=(128, 144), crop_top=16, network=(128, 128)),
    weights=Path(__file__).parent / "orion_tiny",
)
"""Larger, and trained on synthetic clips; see the card beside its weights.

Image tokens are attended to by their positions, but their positions are not in what is read of them: a query
places objects near its own reference point alone, and therefore there are many.
"""

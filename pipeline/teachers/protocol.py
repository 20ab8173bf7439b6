"""The seam every teacher fits: it sees images and ego state, never ground truth.

Dimension letters: B slots (clips that advance in lock-step), C cameras, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from cache_schema.format.features import FeatureSpec
    from cache_schema.format.manifest import TeacherIdentity
    from pipeline.teachers.orion.images import ImagePreprocessing


@dataclass(frozen=True)
class FrameBatch:
    """The next frame of each of B slots. There is no field for ground truth.

    An idle slot (no clip left for it) holds an empty clip name; what the teacher says about it is ignored.
    """

    clips: tuple[str, ...]
    """(B) name of the clip in each slot. A teacher's memory of a slot starts afresh when its clip changes."""
    images: Tensor
    """(B, C, 3, h, w) uint8 RGB, resized and cropped but neither stretched nor normalised."""
    lidar2img: Tensor
    """(B, C, 4, 4) float32, LiDAR frame to pixels of the network's input image."""
    ego_pose: Tensor
    """(B, 4, 4) float32, LiDAR to world."""
    ego_pose_inv: Tensor
    """(B, 4, 4) float32, world to LiDAR."""
    timestamp: Tensor
    """(B) float64, seconds."""
    command: Tensor
    """(B) int64, index into ``cache_schema.vocabulary.driving.COMMANDS``."""
    can_bus: Tensor
    """(B, 18) float64."""


class Teacher(Protocol):
    """A frozen model that speaks about frames."""

    features: tuple[FeatureSpec, ...]
    """What it says of every frame, promised before it has seen one."""
    identity: TeacherIdentity
    """Who it is: goes into the manifest, and must agree when a dataset is resumed."""
    images: ImagePreprocessing
    """How camera images are prepared for it."""

    def begin(self, slots: int) -> Any:
        """Empty memories for ``slots`` clips."""
        ...

    def step(self, frames: FrameBatch, state: Any) -> tuple[dict[str, Tensor], Any]:
        """Look at one frame a slot; return a (B, *shape) tensor for each feature, and the new memories.

        A value too large for the type it is stored in may come as infinity: the dataset refuses it.
        """
        ...

    def assets(self) -> dict[str, dict[str, Tensor]]:
        """Small weights that readers of the dataset need: file stem -> tensor name -> tensor."""
        ...


class TeacherPreset(Protocol):
    """A teacher's sizes and promises, known without its weights."""

    @property
    def features(self) -> tuple[FeatureSpec, ...]:
        """What the teacher will say of every frame."""
        ...

    @property
    def images(self) -> ImagePreprocessing:
        """How camera images are prepared for it."""
        ...

    def load(
        self, checkpoint: Path | None, *, device: str, precision: str = "fp32", quantize: str | None = None
    ) -> Teacher:
        """Build the teacher.

        Args:
            checkpoint: Its weights. None: they are random, and its identity says so.
            device: Where it runs.
            precision: In which numbers its large parts compute, such as fp16.
            quantize: How its language model is quantised, such as nf4; None for not.

        Raises:
            RequestError: This teacher does not come in that precision or quantisation.
        """
        ...

    def convert(self, checkpoint: Path, folder: Path) -> None:
        """Write the checkpoint to a new folder in a form that starts faster and is safe to open."""
        ...

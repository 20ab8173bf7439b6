"""From samples to batches: what ORION reads of a frame, prepared on the CPU and stacked by slot.

Dimension letters: B slots, C cameras, h and w of a shrunk image.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from pipeline.bench2drive.geometry import CAMERAS
from pipeline.bench2drive.jpeg import read_jpeg
from pipeline.teachers.orion.network.config import CAN_BUS_SIGNALS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from pipeline.bench2drive.source import DrivingSample
    from pipeline.teachers.orion.images import ImagePreprocessing


class OrionInputs(NamedTuple):
    """One frame of one clip: a row of an ``OrionBatch``."""

    clip: str
    """Name of the clip; empty for an idle slot."""
    images: np.ndarray
    """(C, 3, h, w) uint8 RGB, resized and cropped."""
    lidar2img: np.ndarray
    """(C, 4, 4) float32."""
    ego_pose: np.ndarray
    """(4, 4) float64."""
    ego_pose_inv: np.ndarray
    """(4, 4) float64."""
    timestamp_s: float
    command: int
    can_bus: np.ndarray
    """(18) float64."""


@dataclass(frozen=True)
class OrionBatch:
    """The next frame of each of B slots. Outputs for an idle slot are ignored."""

    clips: tuple[str, ...]
    """(B) name of the clip in each slot. The memory of a slot is cleared when its clip changes."""
    images: Tensor
    """(B, C, 3, h, w) uint8 RGB, resized and cropped but neither stretched nor normalised."""
    lidar2img: Tensor
    """(B, C, 4, 4) float32, LiDAR frame to pixels of the network's input image."""
    ego_pose: Tensor
    """(B, 4, 4) float32, LiDAR to world."""
    ego_pose_inv: Tensor
    """(B, 4, 4) float32, world to LiDAR."""
    timestamp_s: Tensor
    """(B) float64, since the first frame of the clip."""
    command: Tensor
    """(B) int64, index into ``cache_schema.vocabulary.driving.COMMANDS``."""
    can_bus: Tensor
    """(B, 18) float64."""


def prepare(sample: DrivingSample, images: ImagePreprocessing) -> OrionInputs:
    """Decode, resize and crop the images of a frame, and project the LiDAR frame into them.

    Raises:
        ClipError: An image is missing, not whole, or of another size.
    """
    return OrionInputs(
        clip=sample.clip,
        images=np.stack([images.shrink(read_jpeg(path)) for path in sample.images.values()]),
        lidar2img=lidar2img(sample.lidar2cam, sample.intrinsic, images),
        ego_pose=sample.ego_pose,
        ego_pose_inv=sample.ego_pose_inv,
        timestamp_s=sample.timestamp_s,
        command=sample.command,
        can_bus=sample.can_bus,
    )


def lidar2img(lidar2cam: np.ndarray, intrinsic: np.ndarray, images: ImagePreprocessing) -> np.ndarray:
    """Return (..., 4, 4) float32, LiDAR to pixels of the network's image: (u·depth, v·depth, depth, 1).

    Args:
        lidar2cam: (..., 4, 4) float64, LiDAR to optical cameras.
        intrinsic: (..., 3, 3) float64, of the raw images.
        images: How these images are prepared.
    """
    matrix = lidar2cam.copy()
    matrix[..., :3, :] = images.intrinsic(intrinsic) @ lidar2cam[..., :3, :]
    return matrix.astype(np.float32)


def collate(inputs: Sequence[OrionInputs | None], images: ImagePreprocessing) -> OrionBatch:
    """Stack one row a slot; None is an idle slot, which gets black images and identity poses."""
    rows = [_idle_inputs(images) if row is None else row for row in inputs]

    def stack(field: str, dtype: torch.dtype) -> Tensor:
        tensor = torch.from_numpy(np.stack([getattr(row, field) for row in rows])).to(dtype)
        # The teacher need not wait for a copy from pinned memory to the GPU.
        return tensor.pin_memory() if torch.cuda.is_available() else tensor

    return OrionBatch(
        clips=tuple(row.clip for row in rows),
        images=stack("images", torch.uint8),
        lidar2img=stack("lidar2img", torch.float32),
        ego_pose=stack("ego_pose", torch.float32),
        ego_pose_inv=stack("ego_pose_inv", torch.float32),
        timestamp_s=stack("timestamp_s", torch.float64),
        command=stack("command", torch.int64),
        can_bus=stack("can_bus", torch.float64),
    )


@functools.cache
def _idle_inputs(images: ImagePreprocessing) -> OrionInputs:
    width, height = images.cropped
    return OrionInputs(
        clip="",
        images=np.zeros((len(CAMERAS), 3, height, width), np.uint8),
        lidar2img=np.tile(np.eye(4, dtype=np.float32), (len(CAMERAS), 1, 1)),
        ego_pose=np.eye(4),
        ego_pose_inv=np.eye(4),
        timestamp_s=0.0,
        command=0,
        can_bus=np.zeros(CAN_BUS_SIGNALS),
    )

"""From samples to batches: what ORION reads of a frame, prepared by threads and stacked by slot.

For a teacher on a GPU the threads only decode, straight into pinned memory. From there the images are
uploaded as they are, 26 MB a frame, and shrunk on the GPU. Torch keeps pinned memory that is freed, and gives
it to another frame once its upload is done: after the first steps none is allocated.

Dimension letters: B slots, C cameras, h and w of a shrunk image.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from pipeline.bench2drive.geometry import CAMERAS
from pipeline.bench2drive.jpeg import CAMERA_SIZE, read_jpeg, read_jpeg_into
from pipeline.teachers.orion.network.config import CAN_BUS_SIGNALS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor

    from pipeline.bench2drive.jpeg import Jpeg
    from pipeline.bench2drive.source import DrivingSample
    from pipeline.teachers.orion.images import ImagePreprocessing

DECODED = (*CAMERA_SIZE[::-1], 3)
"""Rows, columns and channels of an image as decoded."""


class OrionInputs(NamedTuple):
    """One frame of one clip: a row of an ``OrionBatch``."""

    clip: str
    """Name of the clip; empty for an idle slot."""
    images: Tensor | None
    """(C, 3, h, w) uint8 RGB, resized and cropped; or (C, 900, 1600, 3), as decoded. None: black."""
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


def prepare(
    sample: DrivingSample,
    images: ImagePreprocessing,
    *,
    shrink: bool = True,
    each: Callable[..., Iterable] = map,
) -> OrionInputs:
    """Decode the images of a frame, and project the LiDAR frame into what they become.

    Args:
        sample: The frame. What is returned shares no memory with it.
        images: How its images are prepared.
        shrink: Resize and crop them. Without, they stay as decoded, in pinned memory if there is a GPU.
        each: Applies a function to every image: in turn, or by the ``map`` of a pool.

    Raises:
        ClipError: An image is missing, not whole, or of another size.
    """
    jpegs = list(sample.images.values())
    return OrionInputs(
        clip=sample.clip,
        images=_shrunk(jpegs, images, each) if shrink else _decoded(jpegs, each),
        lidar2img=lidar2img(sample.lidar2cam, sample.intrinsic, images),
        ego_pose=sample.ego_pose.copy(),
        ego_pose_inv=sample.ego_pose_inv.copy(),
        timestamp_s=sample.timestamp_s,
        command=sample.command,
        can_bus=sample.can_bus.copy(),
    )


def _shrunk(jpegs: Sequence[Jpeg], images: ImagePreprocessing, each: Callable[..., Iterable]) -> Tensor:
    return torch.from_numpy(np.stack([*each(lambda jpeg: images.shrink(read_jpeg(jpeg)), jpegs)]))


def _decoded(jpegs: Sequence[Jpeg], each: Callable[..., Iterable]) -> Tensor:
    pinned = torch.cuda.is_available()
    decoded = torch.empty((len(jpegs), *DECODED), dtype=torch.uint8, pin_memory=pinned)
    for _ in each(read_jpeg_into, decoded.numpy(), jpegs):
        pass  # they are in place
    return decoded


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


def collate(
    inputs: Sequence[OrionInputs | None],
    images: ImagePreprocessing,
    *,
    shrink_on: torch.device | None = None,
) -> OrionBatch:
    """Stack one row a slot; None is an idle slot, which gets black images and identity poses.

    Args:
        inputs: (B) prepared frames.
        images: How their images are prepared.
        shrink_on: Where images that come as decoded are shrunk, and stay; if it is a GPU, everything else is
            pinned. None: they are shrunk already.
    """
    rows = [_IDLE if row is None else row for row in inputs]
    frames = [row.images for row in rows]

    def stack(field: str, dtype: torch.dtype) -> Tensor:
        tensor = torch.from_numpy(np.stack([getattr(row, field) for row in rows])).to(dtype)
        # The teacher need not wait for a copy from pinned memory to the GPU.
        return tensor.pin_memory() if shrink_on is not None and shrink_on.type == "cuda" else tensor

    if shrink_on is None:
        width, height = images.cropped
        stacked = _stacked(frames, (3, height, width))
    else:
        stacked = images.shrink_on_device(_uploaded(frames, shrink_on))
    return OrionBatch(
        clips=tuple(row.clip for row in rows),
        images=stacked,
        lidar2img=stack("lidar2img", torch.float32),
        ego_pose=stack("ego_pose", torch.float32),
        ego_pose_inv=stack("ego_pose_inv", torch.float32),
        timestamp_s=stack("timestamp_s", torch.float64),
        command=stack("command", torch.int64),
        can_bus=stack("can_bus", torch.float64),
    )


def _uploaded(frames: Sequence[Tensor | None], device: torch.device) -> Tensor:
    """Return images as decoded (B, C, 900, 1600, 3) on a device, as its current stream may use them."""
    if device.type != "cuda":
        return _stacked(frames, DECODED, device)
    current, uploads = torch.cuda.current_stream(device), _upload_stream(device)
    with torch.cuda.stream(uploads):  # beside what the GPU still computes
        uploaded = _stacked(frames, DECODED, device)
    current.wait_stream(uploads)
    uploaded.record_stream(current)
    return uploaded


def _stacked(
    frames: Sequence[Tensor | None], size: tuple[int, int, int], device: torch.device | str = "cpu"
) -> Tensor:
    """Return the images of all slots (B, C, *size) uint8; black for an idle slot."""
    stacked = torch.zeros((len(frames), len(CAMERAS), *size), dtype=torch.uint8, device=device)
    for row, frame in zip(stacked, frames, strict=True):
        if frame is not None:
            row.copy_(frame, non_blocking=True)
    return stacked


@functools.cache
def _upload_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


_IDLE = OrionInputs(
    clip="",
    images=None,
    lidar2img=np.tile(np.eye(4, dtype=np.float32), (len(CAMERAS), 1, 1)),
    ego_pose=np.eye(4),
    ego_pose_inv=np.eye(4),
    timestamp_s=0.0,
    command=0,
    can_bus=np.zeros(CAN_BUS_SIGNALS),
)
"""Stands for the frame of an idle slot."""

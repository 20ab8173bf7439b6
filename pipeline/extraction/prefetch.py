"""What is in the slots: clips whose images are decoded ahead, and the batch that their next frames make.

Dimension letters: C cameras, h and w of a prepared image.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from pipeline.bench2drive.geometry import CAMERAS
from pipeline.bench2drive.reader import load_images
from pipeline.teachers.protocol import FrameBatch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import ThreadPoolExecutor

    from pipeline.bench2drive.clips import RawClip
    from pipeline.bench2drive.reader import ClipAnnotations
    from pipeline.teachers.orion.images import ImagePreprocessing

IMAGES_AHEAD = 4
"""Frames decoded ahead in every slot: enough to ride out a slow file, little beside a clip's memory."""


class Sight(NamedTuple):
    """One row of a ``FrameBatch``: what the teacher sees of one slot."""

    clip: str
    images: np.ndarray
    """(C, 3, h, w) uint8."""
    lidar2img: np.ndarray
    """(C, 4, 4)."""
    ego_pose: np.ndarray
    """(4, 4)."""
    ego_pose_inv: np.ndarray
    """(4, 4)."""
    timestamp: float
    command: int
    can_bus: np.ndarray
    """(18)."""


class SlotClip:
    """One clip in its slot.

    Args:
        clip: The raw clip.
        annotations: Its small arrays.
        images: How its images are prepared.
        pool: Threads that decode them ahead.
    """

    def __init__(
        self,
        clip: RawClip,
        annotations: ClipAnnotations,
        images: ImagePreprocessing,
        pool: ThreadPoolExecutor,
    ) -> None:
        self.clip = clip
        self.annotations = annotations
        self.lidar2img = annotations.lidar2img(images)
        self.frame = 0
        self._load = lambda index: pool.submit(load_images, clip, clip.frames[index], images)
        self._images = deque(self._load(index) for index in range(min(IMAGES_AHEAD, len(clip.frames))))

    @property
    def ended(self) -> bool:
        """Whether the last frame has been seen."""
        return self.frame == len(self.clip.frames)

    def sight(self) -> Sight:
        """The next frame.

        Raises:
            ClipError: An image of this frame cannot be read.
        """
        index, seen = self.frame, self.annotations
        pictures = self._images.popleft().result()
        if index + IMAGES_AHEAD < len(self.clip.frames):
            self._images.append(self._load(index + IMAGES_AHEAD))
        self.frame += 1
        return Sight(
            clip=self.clip.name,
            images=pictures,
            lidar2img=self.lidar2img[index],
            ego_pose=seen.ego_pose[index],
            ego_pose_inv=seen.ego_pose_inv[index],
            timestamp=float(seen.timestamp[index]),
            command=int(seen.command[index]),
            can_bus=seen.can_bus[index],
        )

    def cancel(self) -> None:
        """Decode nothing more."""
        for future in self._images:
            future.cancel()


def idle_sight(images: ImagePreprocessing) -> Sight:
    """What an idle slot shows: nothing, from nowhere."""
    width, height = images.cropped
    return Sight(
        clip="",
        images=np.zeros((len(CAMERAS), 3, height, width), np.uint8),
        lidar2img=np.tile(np.eye(4, dtype=np.float32), (len(CAMERAS), 1, 1)),
        ego_pose=np.eye(4),
        ego_pose_inv=np.eye(4),
        timestamp=0.0,
        command=0,
        can_bus=np.zeros(18),
    )


def frame_batch(sights: Sequence[Sight]) -> FrameBatch:
    """Stack one row a slot."""

    def stack(field: str, dtype: torch.dtype) -> torch.Tensor:
        tensor = torch.from_numpy(np.stack([getattr(sight, field) for sight in sights])).to(dtype)
        # From pinned memory the teacher's copy to the GPU need not be waited for.
        return tensor.pin_memory() if torch.cuda.is_available() else tensor

    return FrameBatch(
        clips=tuple(sight.clip for sight in sights),
        images=stack("images", torch.uint8),
        lidar2img=stack("lidar2img", torch.float32),
        ego_pose=stack("ego_pose", torch.float32),
        ego_pose_inv=stack("ego_pose_inv", torch.float32),
        timestamp=stack("timestamp", torch.float64),
        command=stack("command", torch.int64),
        can_bus=stack("can_bus", torch.float64),
    )

"""What ORION remembers of a clip from frame to frame, for B slots at once.

Between frames the memory is in world coordinates and absolute times. ``recall`` brings it into the present
LiDAR frame, and empties the slots whose memory is not continued; ``remember`` puts the present frame in front
and carries all back to the world. Nothing is changed in place: each returns a new object. Sums and products
keep the trained model's float32 arithmetic and order, because positions in the world are large.

Source: spec ORION teacher 2.
Dimension letters: B slots, M remembered queries, K queries kept of one frame, P points of a query, S
remembered history tokens, F remembered frames, E width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from pipeline.teachers.orion.network.config import CAN_BUS_SIGNALS

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.teachers.orion.network.config import OrionConfig

LONGEST_GAP_S = 2.0
"""A gap of this length or longer between two frames of a clip empties the memory."""

POSITION = slice(1, 4)
YAW = 18
"""Where an ego signal (command, then the CAN bus) holds its position in metres and its yaw in degrees."""


@dataclass(frozen=True)
class EgoMotion:
    """Where and when the present frame is."""

    pose: Tensor
    """(B, 4, 4) float32, LiDAR to world."""
    pose_inv: Tensor
    """(B, 4, 4) float32, world to LiDAR."""
    timestamp: Tensor
    """(B) float64, seconds."""
    continued: Tensor
    """(B) bool: the slot's memory belongs to this frame's clip and is young enough."""


@dataclass(frozen=True)
class QueryMemory:
    """Remembered objects (P = 1) or lanes of a few frames, newest first."""

    contents: Tensor
    """(B, M, E)."""
    points: Tensor
    """(B, M, P, 3) metres."""
    poses: Tensor
    """(B, M, 4, 4): the LiDAR frame it was seen from."""
    times: Tensor
    """(B, M) float64, seconds. Recalled: its age."""

    @classmethod
    def empty(cls, slots: int, size: int, points: int, width: int, device: str) -> QueryMemory:
        """Zeros."""
        return cls(
            contents=torch.zeros(slots, size, width, device=device),
            points=torch.zeros(slots, size, points, 3, device=device),
            poses=torch.zeros(slots, size, 4, 4, device=device),
            times=torch.zeros(slots, size, dtype=torch.float64, device=device),
        )

    def recall(self, ego: EgoMotion) -> QueryMemory:
        """The memory in the present LiDAR frame; zeros where it is not continued."""
        return QueryMemory(
            contents=keep(self.contents, ego.continued),
            points=keep(transform(ego.pose_inv, self.points), ego.continued),
            poses=keep(ego.pose_inv[:, None] @ self.poses, ego.continued),
            times=keep(ego.timestamp[:, None] - self.times, ego.continued),
        )

    def remember(self, contents: Tensor, points: Tensor, ego: EgoMotion) -> QueryMemory:
        """The present queries (B, K, E) and points (B, K, P, 3) before this recalled memory, in the world."""
        slots, kept = contents.shape[:2]
        size = self.contents.shape[1]
        here = torch.eye(4, device=points.device).expand(slots, kept, 4, 4)
        now = self.times.new_zeros(slots, kept)
        return QueryMemory(
            contents=torch.cat((contents, self.contents), dim=1)[:, :size],
            points=transform(ego.pose, torch.cat((points, self.points), dim=1)[:, :size]),
            poses=ego.pose[:, None] @ torch.cat((here, self.poses), dim=1)[:, :size],
            times=ego.timestamp[:, None] - torch.cat((now, self.times), dim=1)[:, :size],
        )


@dataclass(frozen=True)
class HistoryMemory:
    """Remembered history tokens, newest first."""

    tokens: Tensor
    """(B, S, E)."""
    times: Tensor
    """(B, S) float64, seconds. Recalled: their age."""

    @classmethod
    def empty(cls, slots: int, size: int, width: int, device: str) -> HistoryMemory:
        """Zeros."""
        times = torch.zeros(slots, size, dtype=torch.float64, device=device)
        return cls(tokens=torch.zeros(slots, size, width, device=device), times=times)

    def recall(self, ego: EgoMotion) -> HistoryMemory:
        """Tokens and their ages; zeros where the memory is not continued."""
        return HistoryMemory(
            tokens=keep(self.tokens, ego.continued),
            times=keep(ego.timestamp[:, None] - self.times, ego.continued),
        )

    def remember(self, tokens: Tensor, ego: EgoMotion) -> HistoryMemory:
        """This recalled memory behind the present frame's tokens."""
        size = self.tokens.shape[1]
        ages = torch.cat((self.times.new_zeros(tokens.shape[:2]), self.times), dim=1)[:, :size]
        return HistoryMemory(
            tokens=torch.cat((tokens, self.tokens), dim=1)[:, :size], times=ego.timestamp[:, None] - ages
        )


@dataclass(frozen=True)
class SignalMemory:
    """Ego signals of the last frames, newest first."""

    signals: Tensor
    """(B, F, 19) float64: command, then the CAN bus, with its position in the world and its yaw in degrees.
    Recalled: position and yaw less those of the present frame."""
    seen: Tensor
    """(B, F) bool: the clip had that frame."""

    @classmethod
    def empty(cls, slots: int, frames: int, signals: int, device: str) -> SignalMemory:
        """No frame seen."""
        return cls(
            signals=torch.zeros(slots, frames, signals, dtype=torch.float64, device=device),
            seen=torch.zeros(slots, frames, dtype=torch.bool, device=device),
        )

    def recall(self, present: Tensor, ego: EgoMotion) -> SignalMemory:
        """Signals relative to the ``present`` ones (B, 19); zeros where unseen or not continued."""
        origin = torch.zeros_like(present)
        origin[:, POSITION] = present[:, POSITION]
        origin[:, YAW] = present[:, YAW]
        seen = self.seen & ego.continued[:, None]
        return SignalMemory((self.signals - origin[:, None]).where(seen[..., None], 0), seen)

    def remember(self, present: Tensor, ego: EgoMotion) -> SignalMemory:
        """This memory, as it is between frames, behind the ``present`` signals (B, 19)."""
        frames = self.signals.shape[1]
        seen = self.seen & ego.continued[:, None]
        signals = self.signals.where(seen[..., None], 0)
        return SignalMemory(
            signals=torch.cat((present[:, None], signals), dim=1)[:, :frames],
            seen=torch.cat((torch.ones_like(seen[:, :1]), seen), dim=1)[:, :frames],
        )


@dataclass(frozen=True)
class OrionMemory:
    """Everything remembered by B slots."""

    objects: QueryMemory
    lanes: QueryMemory
    history: HistoryMemory
    signals: SignalMemory
    timestamp: Tensor
    """(B) float64, seconds: when the last frame was."""

    @classmethod
    def empty(cls, config: OrionConfig, slots: int, device: str) -> OrionMemory:
        """Memories of clips that have not begun."""
        detection, lanes, width = config.detection, config.lanes, config.width
        signals = 1 + CAN_BUS_SIGNALS
        return cls(
            objects=QueryMemory.empty(slots, detection.memory, 1, width, device),
            lanes=QueryMemory.empty(slots, lanes.memory, config.lane_points, width, device),
            history=HistoryMemory.empty(slots, detection.history, width, device),
            signals=SignalMemory.empty(slots, detection.memory_frames, signals, device),
            timestamp=torch.zeros(slots, dtype=torch.float64, device=device),
        )

    def ego_motion(self, pose: Tensor, pose_inv: Tensor, timestamp: Tensor, same_clip: Tensor) -> EgoMotion:
        """Decide, slot by slot, whether the memory goes on; ``same_clip`` (B) bool."""
        near = (timestamp - self.timestamp).abs() < LONGEST_GAP_S
        return EgoMotion(pose, pose_inv, timestamp, continued=same_clip & near)


def keep(x: Tensor, slots: Tensor) -> Tensor:
    """``x`` (B, ...) where ``slots`` (B) is True, else zero."""
    return x.where(slots.view(-1, *(1,) * (x.ndim - 1)), 0)


def transform(pose: Tensor, points: Tensor) -> Tensor:
    """Move points (B, M, P, 3) by a pose (B, 4, 4)."""
    homogeneous = torch.cat((points, torch.ones_like(points[..., :1])), dim=-1)
    return (pose[:, None, None] @ homogeneous[..., None]).squeeze(-1)[..., :3]

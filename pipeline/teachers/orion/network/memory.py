"""ORION's memory of a clip from frame to frame, for B slots at once.

Between frames the memory is in world coordinates and absolute times. ``recall`` transforms it into the
present LiDAR frame, and clears the slots whose clip is not continued; ``remember`` prepends the present frame
and transforms all back to the world. Nothing is changed in place: each returns a new object. Sums and
products keep the trained model's float32 precision and order, because positions in the world are large.

Source: spec ORION teacher 2.
Dimension letters: B slots, M queries in the memory, K queries kept of one frame, P points of a query,
S history tokens in the memory, F frames in the memory, E width.
"""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from pipeline.teachers.orion.network.config import CAN_BUS_SIGNALS

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.teachers.orion.network.config import OrionConfig

Memory = TypeVar("Memory", bound=Any)

LONGEST_GAP_S = 2.0
"""A gap of this length or longer between two frames of a clip clears the memory."""

POSITION = slice(1, 4)
YAW = 18
"""Indices of the position in metres and the yaw in degrees in an ego signal (command, then the CAN bus)."""


@dataclass(frozen=True)
class EgoMotion:
    """Pose and time of the present frame."""

    pose: Tensor
    """(B, 4, 4) float32, LiDAR to world."""
    pose_inv: Tensor
    """(B, 4, 4) float32, world to LiDAR."""
    timestamp: Tensor
    """(B) float64, seconds."""
    continued: Tensor
    """(B) bool: the slot's memory is of this frame's clip and recent enough."""


@dataclass(frozen=True)
class QueryMemory:
    """Objects (P = 1) or lanes of a few frames, newest first."""

    contents: Tensor
    """(B, M, E)."""
    points: Tensor
    """(B, M, P, 3) metres."""
    poses: Tensor
    """(B, M, 4, 4): the LiDAR frame that it was detected in."""
    times: Tensor
    """(B, M) float64, seconds. Recalled: its age."""

    @classmethod
    def empty(cls, slots: int, size: int, points: int, width: int, device: str) -> QueryMemory:
        """Return zeros."""
        return cls(
            contents=torch.zeros(slots, size, width, device=device),
            points=torch.zeros(slots, size, points, 3, device=device),
            poses=torch.zeros(slots, size, 4, 4, device=device),
            times=torch.zeros(slots, size, dtype=torch.float64, device=device),
        )

    def recall(self, ego: EgoMotion) -> QueryMemory:
        """Return the memory in the present LiDAR frame; zeros where it is not continued."""
        return QueryMemory(
            contents=mask_slots(self.contents, ego.continued),
            points=mask_slots(transform(ego.pose_inv, self.points), ego.continued),
            poses=mask_slots(product(ego.pose_inv[:, None], self.poses), ego.continued),
            times=mask_slots(ego.timestamp[:, None] - self.times, ego.continued),
        )

    def remember(self, contents: Tensor, points: Tensor, ego: EgoMotion) -> QueryMemory:
        """Prepend present queries (B, K, E) and points (B, K, P, 3) to this recalled memory, in the world."""
        slots, kept = contents.shape[:2]
        size = self.contents.shape[1]
        identity = torch.eye(4, device=points.device).expand(slots, kept, 4, 4)
        ages = self.times.new_zeros(slots, kept)
        return QueryMemory(
            contents=torch.cat((contents, self.contents), dim=1)[:, :size],
            points=transform(ego.pose, torch.cat((points, self.points), dim=1)[:, :size]),
            poses=product(ego.pose[:, None], torch.cat((identity, self.poses), dim=1)[:, :size]),
            times=ego.timestamp[:, None] - torch.cat((ages, self.times), dim=1)[:, :size],
        )


@dataclass(frozen=True)
class HistoryMemory:
    """History tokens, newest first."""

    tokens: Tensor
    """(B, S, E)."""
    times: Tensor
    """(B, S) float64, seconds. Recalled: their age."""

    @classmethod
    def empty(cls, slots: int, size: int, width: int, device: str) -> HistoryMemory:
        """Return zeros."""
        times = torch.zeros(slots, size, dtype=torch.float64, device=device)
        return cls(tokens=torch.zeros(slots, size, width, device=device), times=times)

    def recall(self, ego: EgoMotion) -> HistoryMemory:
        """Return tokens and their ages; zeros where the memory is not continued."""
        return HistoryMemory(
            tokens=mask_slots(self.tokens, ego.continued),
            times=mask_slots(ego.timestamp[:, None] - self.times, ego.continued),
        )

    def remember(self, tokens: Tensor, ego: EgoMotion) -> HistoryMemory:
        """Prepend the present frame's tokens to this recalled memory."""
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
        """Return a memory without frames."""
        return cls(
            signals=torch.zeros(slots, frames, signals, dtype=torch.float64, device=device),
            seen=torch.zeros(slots, frames, dtype=torch.bool, device=device),
        )

    def recall(self, present: Tensor, ego: EgoMotion) -> SignalMemory:
        """Return signals relative to the ``present`` ones (B, 19); zeros where unseen or not continued."""
        origin = torch.zeros_like(present)
        origin[:, POSITION] = present[:, POSITION]
        origin[:, YAW] = present[:, YAW]
        seen = self.seen & ego.continued[:, None]
        return SignalMemory((self.signals - origin[:, None]).where(seen[..., None], 0), seen)

    def remember(self, present: Tensor, ego: EgoMotion) -> SignalMemory:
        """Prepend the ``present`` signals (B, 19) to this memory, as it is between frames."""
        frames = self.signals.shape[1]
        seen = self.seen & ego.continued[:, None]
        signals = self.signals.where(seen[..., None], 0)
        return SignalMemory(
            signals=torch.cat((present[:, None], signals), dim=1)[:, :frames],
            seen=torch.cat((torch.ones_like(seen[:, :1]), seen), dim=1)[:, :frames],
        )


@dataclass(frozen=True)
class OrionMemory:
    """The memories of B slots."""

    objects: QueryMemory
    lanes: QueryMemory
    history: HistoryMemory
    signals: SignalMemory
    timestamp: Tensor
    """(B) float64, seconds: time of the last frame."""

    @classmethod
    def empty(cls, config: OrionConfig, slots: int, device: str) -> OrionMemory:
        """Return the memories of clips before their first frame."""
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
        """Return the motion, with the slots whose memory is continued; ``same_clip`` (B) bool."""
        near = (timestamp - self.timestamp).abs() < LONGEST_GAP_S
        return EgoMotion(pose, pose_inv, timestamp, continued=same_clip & near)


def mask_slots(x: Tensor, slots: Tensor, other: Tensor | float = 0) -> Tensor:
    """Return ``x`` (B, ...) where ``slots`` (B) is True, else zero, or what ``other`` (B, ...) has there."""
    return x.where(slots.view(-1, *(1,) * (x.ndim - 1)), other)


def choose_slots(slots: Tensor, memory: Memory, other: Memory) -> Memory:
    """Return a memory, or a part of one, where ``slots`` (B) is True, else the ``other`` one."""
    chosen = {}
    for name, mine in vars(memory).items():
        theirs = getattr(other, name)
        is_tensor = isinstance(mine, torch.Tensor)
        chosen[name] = mask_slots(mine, slots, theirs) if is_tensor else choose_slots(slots, mine, theirs)
    return replace(memory, **chosen)


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return the matrix product of (..., 4, 4) and (..., 4, n), with the same bits on every device.

    Poses hold kilometres, whose rounding the encodings of positions amplify a thousandfold. Libraries of
    matrix products add in an order of their own; these sums have one, that of a CPU.
    """
    terms = (a[..., k : k + 1] * b[..., k : k + 1, :] for k in range(a.shape[-1]))
    return functools.reduce(operator.add, terms)


def transform(pose: Tensor, points: Tensor) -> Tensor:
    """Transform points (B, M, P, 3) by a pose (B, 4, 4)."""
    homogeneous = torch.cat((points, torch.ones_like(points[..., :1])), dim=-1)
    return product(pose[:, None, None], homogeneous[..., None]).squeeze(-1)[..., :3]

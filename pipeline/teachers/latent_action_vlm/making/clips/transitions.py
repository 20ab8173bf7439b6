"""Transitions of driving clips: a frame, the one that follows a second later, and how the ego moved.

Dimension letters: F frames of a clip.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cache_schema.errors import ClipError, LeftOut
from cache_schema.progress import SILENT
from cache_schema.vocabulary.driving import ACCELERATION, COMMANDS, SPEED, YAW_RATE
from pipeline.bench2drive.add_ground_truth import SAME_POSE_M
from pipeline.bench2drive.geometry import rigid_inverse

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from cache_schema.progress import Progress
    from pipeline.source import Clip

CAMERA = "CAM_FRONT"
GAP_S = 1.0
"""Seconds from the earlier to the later frame of a transition."""
POSE, STATE = 3, 3
"""Numbers of an SE(2) pose (forward, left, heading) and of a state (speed, acceleration, yaw rate)."""
CONDITION = 2 * POSE + STATE
"""Numbers of a condition: the poses half a gap and a gap later, and the state now; beside the command."""
MOTION = ("yaw rate", "acceleration")
"""What is asked of codes: means over the gap, in rad/s counter-clockwise, and m/s2."""


@dataclass(frozen=True, eq=False)
class ClipTransitions:
    """What one clip has to say of its transitions."""

    clip: str
    images: tuple[Path, ...]
    """(F) JPEGs of the front camera."""
    ego_pose: np.ndarray
    """(F, 4, 4) LiDAR to world."""
    later: np.ndarray
    """(F) int64, the frame a gap later; -1 where the clip has none at that time."""
    condition: np.ndarray
    """(F, CONDITION) float64 in m, rad and s; where ``later`` is -1 without meaning."""
    command: np.ndarray
    """(F) int64, index into ``COMMANDS``."""
    motion: np.ndarray
    """(F, 2) float64 of ``MOTION``; where ``later`` is -1 without meaning."""


def frames_after(timestamp_s: np.ndarray, seconds: float, rate_hz: float) -> np.ndarray:
    """Return for every frame the number of the one that is so much later; -1 where there is none.

    Args:
        timestamp_s: (F) rising.
        seconds: How much later.
        rate_hz: A frame counts that is off by half a frame of this rate at most.
    """
    wanted = timestamp_s + seconds
    right = np.searchsorted(timestamp_s, wanted).clip(1, max(len(timestamp_s) - 1, 1))
    right = np.minimum(right, len(timestamp_s) - 1)
    left = np.maximum(right - 1, 0)
    nearest = np.where(wanted - timestamp_s[left] < timestamp_s[right] - wanted, left, right)
    return np.where(np.abs(timestamp_s[nearest] - wanted) <= 0.5 / rate_hz, nearest, -1)


def relative_pose(ego_pose: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return (F, 3) where the ego is at other frames, and how it is turned: forward and left m, heading rad.

    Args:
        ego_pose: (F, 4, 4) LiDAR (x right, y forward) to world.
        other: (F) numbers of frames.
    """
    moved = rigid_inverse(ego_pose) @ ego_pose[other]
    return np.stack([moved[:, 1, 3], -moved[:, 0, 3], np.arctan2(moved[:, 1, 0], moved[:, 0, 0])], axis=1)


def read_transitions(clip: Clip, rate_hz: float) -> ClipTransitions:
    """Read a clip of a driving source.

    Raises:
        ClipError: An annotation is broken, or an image is missing.
    """
    opened = clip.open()
    truth = opened.ground_truth()
    pose, signals, time = (np.array(truth[name]) for name in ("ego_pose", "can_bus", "timestamp"))
    command = np.array(truth["command"], dtype=np.int64)
    images = tuple(opened.sample(index).images[CAMERA] for index in range(clip.samples))
    for image in images:
        if not image.is_file():
            raise ClipError(
                f"the image {image} does not exist",
                expected="a JPEG of the front camera for every annotated frame",
                repair="unpack the clip's archive again, or leave the clip out",
            )
    half, later = (frames_after(time, seconds, rate_hz) for seconds in (GAP_S / 2, GAP_S))
    whole = (half >= 0) & (later >= 0)
    after = relative_pose(pose, later)
    speed = signals[:, SPEED]
    state = np.stack([speed, signals[:, ACCELERATION[0]], signals[:, YAW_RATE]], axis=1)
    return ClipTransitions(
        clip=clip.name,
        images=images,
        ego_pose=pose,
        later=np.where(whole, later, -1),
        condition=np.concatenate([relative_pose(pose, half), after, state], axis=1),
        command=command,
        motion=np.stack([after[:, 2], speed[later] - speed], axis=1) / GAP_S,
    )


def check_same_clip(clip: ClipTransitions, frames: np.ndarray, ego_pose: np.ndarray | None) -> None:
    """Check that a raw clip is the one that a dataset's clip was made from.

    Args:
        clip: The raw clip.
        frames: Numbers of the frames that the dataset holds.
        ego_pose: (frames, 4, 4) as it holds them, if it does.

    Raises:
        ClipError: It is another one.
    """
    if frames.min() < 0 or frames.max() >= len(clip.images):
        what = f"has {len(clip.images)} frames, and the dataset holds frame {frames.max()} of it"
    elif ego_pose is not None and np.abs(clip.ego_pose[frames] - ego_pose).max() > SAME_POSE_M:
        what = "has the ego elsewhere than in the dataset"
    else:
        return
    raise ClipError(
        f"the raw clip {clip.clip} {what}",
        expected="the raw clip that the dataset was made from",
        repair="give the data root that the dataset was extracted from",
    )


def read_all(
    clips: Iterable[Clip], rate_hz: float, *, workers: int = 1, progress: Progress = SILENT
) -> tuple[list[ClipTransitions], list[LeftOut]]:
    """Read clips in their order, by so many processes; return also those that cannot be read."""
    clips = [*clips]
    found: list[ClipTransitions] = []
    failed: list[LeftOut] = []

    def take(results: Iterable[ClipTransitions | LeftOut]) -> None:
        for result in results:
            (failed if isinstance(result, LeftOut) else found).append(result)  # ty: ignore
            progress.advance(1)

    progress.expect(len(clips))
    rates = [rate_hz] * len(clips)
    if workers == 1:
        take(map(_read, clips, rates))
    else:
        # Fresh interpreters: a fork of a process that already runs threads may hang.
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            take(pool.map(_read, clips, rates))
    return found, failed


def _read(clip: Clip, rate_hz: float) -> ClipTransitions | LeftOut:
    try:
        return read_transitions(clip, rate_hz)
    except ClipError as error:
        return LeftOut.because(clip.name, error)


class Transitions:
    """The transitions of several clips as samples.

    Attributes:
        pairs: (samples, 2) paths' numbers of the earlier and the later frame.
        condition: (samples, CONDITION).
        command: (samples).
        motion: (samples, 2) of ``MOTION``.
        images: JPEGs by their numbers.
    """

    def __init__(self, clips: Sequence[ClipTransitions]) -> None:
        self.images: list[Path] = []
        self._clips = [(clip.clip, len(clip.images)) for clip in clips]
        pairs, rows = [np.empty((0, 2), dtype=np.int64)], []
        for clip in clips:
            whole = np.flatnonzero(clip.later >= 0)
            pairs.append(np.stack([whole, clip.later[whole]], axis=1) + len(self.images))
            rows.append(whole)
            self.images.extend(clip.images)
        self.pairs = np.concatenate(pairs)
        empty = np.empty((0, CONDITION)), np.empty(0, dtype=np.int64), np.empty((0, len(MOTION)))
        self.condition, self.command, self.motion = (
            np.concatenate([none, *(getattr(clip, name)[row] for clip, row in zip(clips, rows, strict=True))])
            for name, none in zip(("condition", "command", "motion"), empty, strict=True)
        )

    def __len__(self) -> int:
        return len(self.pairs)

    def digest(self) -> str:
        """Return a digest of the clips, by name and length, and of how the ego moved."""
        digest = hashlib.sha256(json.dumps(self._clips).encode())
        digest.update(self.condition.tobytes())
        return f"sha256:{digest.hexdigest()}"


def condition_tokens(
    condition: np.ndarray, command: np.ndarray, mean: np.ndarray, std: np.ndarray
) -> np.ndarray:
    """Return the condition as three tokens: two poses and the state, each in channels of its own.

    Tokens have no positions, and so are told apart by their channels.

    Args:
        condition: (..., CONDITION).
        command: (...).
        mean: (CONDITION) subtracted.
        std: (CONDITION) divides.

    Returns:
        (..., 3, CONDITION_WIDTH) float32.
    """
    scaled = (condition - mean) / std
    tokens = np.zeros((*command.shape, 3, CONDITION_WIDTH), dtype=np.float32)
    for token in range(3):
        part = slice(token * POSE, (token + 1) * POSE)
        tokens[..., token, part] = scaled[..., part]
    tokens[..., 2, CONDITION:] = np.eye(len(COMMANDS))[command]
    return tokens


CONDITION_WIDTH = CONDITION + len(COMMANDS)
"""Width of a condition token."""

"""The annotations of all frames of a clip, as arrays.

Dimension letters: F frames of a clip, C = 6 cameras.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cache_schema.errors import ClipError
from cache_schema.vocabulary.driving import SPEED
from pipeline.bench2drive.annotations import read_annotation
from pipeline.bench2drive.clips import FRAME_RATE_HZ
from pipeline.bench2drive.geometry import rigid_inverse
from pipeline.bench2drive.ground_truth.agents import agent_features, road_users
from pipeline.bench2drive.ground_truth.trajectories import ego_trajectories

if TYPE_CHECKING:
    from pipeline.bench2drive.clips import RawClip

TELLING_DISTANCE_M = 5.0
"""Distance from which on a clip tells its rate. At less, a speed that is recorded one frame late matters."""
RATE_TOLERANCE = math.sqrt(2)
"""Largest ratio of the measured to the true rate. Recordings at half and at twice the rate are as far from it
as the true rate is; what a simulator measures of its own motion is off by a few percent."""


@dataclass(frozen=True, eq=False)
class ClipAnnotations:
    """The annotations of one clip; of the other actors, only what the ground truth keeps."""

    frame_index: np.ndarray
    """(F) int32, number of the frame in the raw clip."""
    command: np.ndarray
    """(F) int64, index into ``COMMANDS``."""
    can_bus: np.ndarray
    """(F, 18) float64."""
    ego_pose: np.ndarray
    """(F, 4, 4) float64, LiDAR to RH world."""
    ego_pose_inv: np.ndarray
    """(F, 4, 4) float64, RH world to LiDAR: its rotation is the transpose of the other's."""
    lidar2cam: np.ndarray
    """(F, C, 4, 4) float64, LiDAR to optical cameras."""
    intrinsic: np.ndarray
    """(F, C, 3, 3) float64, of the raw 1600x900 images."""
    agents: dict[str, np.ndarray]
    """Values (F, *shape) of every feature of ``cache_schema.vocabulary.driving.GROUND_TRUTH_AGENTS``."""

    @property
    def timestamp_s(self) -> np.ndarray:
        """(F) float64, seconds since frame 0."""
        return self.frame_index / FRAME_RATE_HZ

    def ground_truth(self) -> dict[str, np.ndarray]:
        """Return (F, *shape) of every feature of ``cache_schema.vocabulary.driving.GROUND_TRUTH``."""
        trajectory, mask = ego_trajectories(self.ego_pose)
        return {
            "ego_trajectory": trajectory,
            "ego_trajectory_mask": mask,
            "command": self.command.astype(np.int8),
            "timestamp": self.timestamp_s,
            "frame_index": self.frame_index,
            "ego_pose": self.ego_pose,
            "can_bus": self.can_bus,
            **self.agents,
        }


def read_annotations(clip: RawClip) -> ClipAnnotations:
    """Read the annotations of every frame of a clip.

    Raises:
        ClipError: A frame is missing, an annotation is broken, or the frames are not 0.1 s apart.
    """
    # The other actors are most of a file: those of a frame are freed before the next frame is read.
    rows, others = [], []
    for frame in clip.frames:
        annotation = read_annotation(clip.annotation_path(frame))
        rows.append(
            (
                annotation.command,
                annotation.can_bus,
                annotation.world2lidar,
                annotation.lidar2cam,
                annotation.intrinsic,
            )
        )
        others.append(road_users(annotation))
    command, can_bus, world2lidar, lidar2cam, intrinsic = (
        np.stack(column) for column in zip(*rows, strict=True)
    )
    ego_pose = np.linalg.inv(world2lidar)
    _check_rate(clip, ego_pose[:, :3, 3], can_bus[:, SPEED])
    return ClipAnnotations(
        frame_index=np.array(clip.frames, dtype=np.int32),
        command=command.astype(np.int64),
        can_bus=can_bus,
        ego_pose=ego_pose,
        ego_pose_inv=rigid_inverse(ego_pose),
        lidar2cam=lidar2cam,
        intrinsic=intrinsic,
        agents=agent_features(others, world2lidar),
    )


def _check_rate(clip: RawClip, position: np.ndarray, speed: np.ndarray) -> None:
    """Compare the way between frames with the speed, as annotations have no time.

    Args:
        clip: The clip.
        position: (F, 3) m.
        speed: (F) m/s.
    """
    way_m = np.linalg.norm(np.diff(position, axis=0), axis=1).sum()
    speeds = ((speed[1:] + speed[:-1]) / 2).sum()
    if way_m < TELLING_DISTANCE_M or speeds <= 0:
        return
    rate_hz = speeds / way_m
    if not 1 / RATE_TOLERANCE < rate_hz / FRAME_RATE_HZ < RATE_TOLERANCE:
        raise ClipError(
            f"the clip {clip.name} was recorded at about {rate_hz:.3g} Hz, by its speeds and positions",
            expected=f"frames at {FRAME_RATE_HZ:g} Hz, in which all trajectories and horizons are counted",
            repair=f"use a recording at {FRAME_RATE_HZ:g} Hz, or leave the clip out",
        )

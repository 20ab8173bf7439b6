"""The other actors of a frame as boxes in the LiDAR frame (spec: Bench2Drive, sections 3.2, 3.3 and 3.8).

Dimension letters: K boxes of a frame.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.bench2drive.geometry import S, heading, pose_matrix, rigid_inverse, transform
from pipeline.bench2drive.ground_truth.classes import UNKNOWN, label_of
from pipeline.bench2drive.ground_truth.visibility import filter_corners, visible

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from pipeline.bench2drive.annotations import Annotation
    from pipeline.bench2drive.record import Record

MAX_DISTANCE_M = 75.0
MAX_HEIGHT_M = 10.0
RANGE_M = 51.2
YAW_TOLERANCE_RAD = 0.01
"""By how much an annotated matrix and yaw may differ."""

_INVERSE_POSES = ("world2vehicle", "world2ego", "world2sign", "world2ped")


@dataclass(frozen=True, eq=False)
class Boxes:
    """K boxes of one frame, in the LiDAR frame: metres, radians."""

    id: np.ndarray
    """(K) int64, the actor's number, the same all through a clip."""
    label: np.ndarray
    """(K) int64, index into ``CLASSES``; ``UNKNOWN`` for a type that is in no class."""
    centre: np.ndarray
    """(K, 3) of the box's middle."""
    size: np.ndarray
    """(K, 3) width, length, height."""
    yaw: np.ndarray
    """(K) heading, counter-clockwise from +x, in [-pi, pi]."""
    num_points: np.ndarray
    """(K) int64, LiDAR hits; -1 where the data does not count them (lights, signs)."""
    actor2world: np.ndarray
    """(K, 4, 4) actor axes to RH world; the origin is the actor's own, not the box's middle."""

    def __len__(self) -> int:
        return len(self.id)

    def take(self, keep: np.ndarray) -> Boxes:
        """Return the boxes that a mask or index (K) picks."""
        return Boxes(**{field.name: getattr(self, field.name)[keep] for field in dataclasses.fields(self)})

    def for_planning(self) -> Boxes:
        """Return the boxes that the planning metric and ORION's training count.

        They are of a known class, hit by the LiDAR (or of a kind it does not count), and within 51.2 m.
        """
        near = (np.abs(self.centre[:, :2]) < RANGE_M).all(1)
        return self.take((self.label != UNKNOWN) & (self.num_points != 0) & near)


def frame_boxes(annotation: Annotation, labels: Collection[int]) -> Boxes:
    """Return the actors of one frame that have one of these labels and are near enough, seen or not.

    Raises:
        ClipError: An actor lacks a key.
    """
    others = [
        actor
        for actor in annotation.boxes
        if actor.text("class") != "ego_vehicle" and label_of(actor.text("type_id")) in labels
    ]
    if not others:
        return _boxes([], annotation)
    ego_height = annotation.boxes[0].array("location", 3)[2]
    near = [
        actor
        for actor in others
        if actor.number("distance") <= MAX_DISTANCE_M
        and abs(actor.array("location", 3)[2] - ego_height) <= MAX_HEIGHT_M
    ]
    return _boxes(near, annotation)


def seen_boxes(boxes: Boxes, annotation: Annotation) -> Boxes:
    """Return the boxes that some camera would see if nothing were in between."""
    return boxes.take(visible(filter_corners(boxes.centre, boxes.size, boxes.yaw), annotation))


def _boxes(actors: Sequence[Record], annotation: Annotation) -> Boxes:
    annotated_yaw = _column(actors, "rotation", 3)[:, 2]
    poses, of_vehicle = _poses(actors, annotated_yaw)
    yaw = np.where(
        of_vehicle,
        heading(annotation.world2lidar @ (S @ poses @ S)),
        -np.radians(annotated_yaw) - annotation.ego_yaw + math.pi / 2,
    )
    return Boxes(
        id=np.array([actor.integer("id") for actor in actors], np.int64),
        label=np.array([label_of(actor.text("type_id")) for actor in actors], np.int64),
        centre=transform(annotation.world2lidar, _column(actors, "center", 3) * (1, -1, 1)),
        size=2 * _column(actors, "extent", 3)[:, [1, 0, 2]],
        yaw=np.array([math.remainder(angle, 2 * math.pi) for angle in yaw.tolist()]),
        num_points=np.array(
            [actor.integer("num_points") if "num_points" in actor else -1 for actor in actors], np.int64
        ),
        actor2world=S @ _trusting_yaw(poses, annotated_yaw) @ S,
    )


def _column(actors: Sequence[Record], key: str, width: int) -> np.ndarray:
    """(K, width) of a key that every actor has."""
    return np.array([actor.array(key, width) for actor in actors]).reshape(-1, width)


def _poses(actors: Sequence[Record], yaw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Actors to UE world (K, 4, 4), by location and yaw where there is no matrix; which are vehicles (K)."""
    keys = [next((key for key in _INVERSE_POSES if key in actor), None) for actor in actors]
    inverses = [
        rigid_inverse(pose_matrix(actor.array("location", 3), (0, 0, degrees)))
        if key is None
        else actor.pose(key)
        for actor, key, degrees in zip(actors, keys, yaw, strict=True)
    ]
    poses = np.linalg.inv(np.array(inverses).reshape(-1, 4, 4))
    return poses, np.array([key == "world2vehicle" for key in keys], dtype=bool)


def _trusting_yaw(poses: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """Actors to UE world (K, 4, 4), for their future tracks.

    Where the annotated matrix and yaw disagree, the original conversion takes the yaw, without wrapping the
    difference; so a parked car's unreliable yaw counts.
    """
    poses = poses.copy()
    for index in np.flatnonzero(np.abs(np.radians(yaw) - heading(poses)) > YAW_TOLERANCE_RAD):
        poses[index] = pose_matrix(poses[index, :3, 3], (0, 0, yaw[index]))
    return poses

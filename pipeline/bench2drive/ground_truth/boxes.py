"""The other actors of a frame as boxes in the LiDAR frame (spec: Bench2Drive, sections 3.2, 3.3 and 3.8).

Dimension letters: K boxes of a frame.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.bench2drive.annotations import read_annotation
from pipeline.bench2drive.clips import FRAME_RATE_HZ
from pipeline.bench2drive.geometry import S, heading, pose_matrix, rigid_inverse, transform
from pipeline.bench2drive.ground_truth.classes import CLASSES, UNKNOWN, label_of
from pipeline.bench2drive.ground_truth.visibility import Visibility, filter_corners, load_depth, visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pipeline.bench2drive.annotations import Annotation
    from pipeline.bench2drive.clips import RawClip
    from pipeline.bench2drive.record import Record

MAX_DISTANCE_M = 75.0
MAX_HEIGHT_M = 10.0
RANGE_M = 51.2
YAW_TOLERANCE = 0.01
"""Radians by which an annotated matrix and yaw may differ."""

ALL_LABELS = (UNKNOWN, *range(len(CLASSES)))

_INVERSE_POSES = ("world2vehicle", "world2ego", "world2sign", "world2ped")


@dataclass(frozen=True, eq=False)
class Boxes:
    """K boxes of one frame, in the LiDAR frame: metres, radians, metres a second."""

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
    box_yaw: np.ndarray
    """(K) ``-heading - pi/2`` of the heading before it was wrapped: the angle of ORION's detection head."""
    velocity: np.ndarray
    """(K, 2)."""
    num_points: np.ndarray
    """(K) int64, LiDAR hits; -1 where the data does not count them (lights, signs)."""
    actor2world: np.ndarray
    """(K, 4, 4) actor axes to RH world; the origin is the actor's own, not the box's middle."""
    world_centre: np.ndarray
    """(K, 3) of the box's middle in the RH world."""

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

    @property
    def rows(self) -> np.ndarray:
        """(K, 9) x, y, z of the bottom's middle, width, length, height, box_yaw, vx, vy."""
        bottom = self.centre - self.size * (0, 0, 0.5)
        return np.concatenate([bottom, self.size, self.box_yaw[:, None], self.velocity], axis=1)


def read_boxes(clip: RawClip, visibility: Visibility = "fov") -> list[Boxes]:
    """Read the boxes of every frame of a clip.

    Raises:
        ClipError: An annotation is broken, or ``visibility`` is ``depth`` and a depth image is missing.
    """
    frames: list[Boxes] = []
    last_seen: dict[int, np.ndarray] = {}
    for frame in clip.frames:
        annotation = read_annotation(clip.annotation_path(frame))
        boxes = frame_boxes(annotation, last_seen)
        if visibility != "off":
            boxes = seen_boxes(boxes, annotation, load_depth(clip, frame) if visibility == "depth" else None)
        if len(boxes):
            last_seen = dict(zip(boxes.id.tolist(), boxes.world_centre, strict=True))
        frames.append(boxes)
    return frames


def seen_boxes(boxes: Boxes, annotation: Annotation, depth: np.ndarray | None = None) -> Boxes:
    """Return the boxes that some camera sees: through everything, where ``depth`` (6, 900, 1600) is None."""
    return boxes.take(visible(filter_corners(boxes.centre, boxes.size, boxes.yaw), annotation, depth))


def frame_boxes(
    annotation: Annotation, last_seen: dict[int, np.ndarray], labels: Iterable[int] = ALL_LABELS
) -> Boxes:
    """Take the actors of one frame that are near enough; visibility is not looked at.

    Args:
        annotation: The frame.
        last_seen: Actor -> (3) middle of its box in the RH world, in the last frame that had boxes. The data
            gives walkers no speed, so theirs is taken from here.
        labels: Labels of the actors to take.

    Raises:
        ClipError: An actor lacks a key.
    """
    labels = frozenset(labels)
    others = [
        actor
        for actor in annotation.boxes
        if actor.text("class") != "ego_vehicle" and label_of(actor.text("type_id")) in labels
    ]
    if not others:
        return _boxes([], annotation, last_seen)
    ego_height = annotation.boxes[0].array("location", 3)[2]
    near = [
        actor
        for actor in others
        if actor.number("distance") <= MAX_DISTANCE_M
        and abs(actor.array("location", 3)[2] - ego_height) <= MAX_HEIGHT_M
    ]
    return _boxes(near, annotation, last_seen)


def _boxes(actors: Sequence[Record], annotation: Annotation, last_seen: dict[int, np.ndarray]) -> Boxes:
    numbers = np.array([actor.integer("id") for actor in actors], np.int64)
    world_centre = _column(actors, "center", 3) * (1, -1, 1)
    annotated_yaw = _column(actors, "rotation", 3)[:, 2]
    poses, of_vehicle = _poses(actors, annotated_yaw)
    yaw = np.where(
        of_vehicle,
        heading(annotation.world2lidar @ (S @ poses @ S)),
        -np.radians(annotated_yaw) - annotation.ego_yaw + math.pi / 2,
    )
    speed = np.array(
        [
            _speed(actor, centre, last_seen.get(number))
            for actor, centre, number in zip(actors, world_centre, numbers.tolist(), strict=True)
        ]
    )
    return Boxes(
        id=numbers,
        label=np.array([label_of(actor.text("type_id")) for actor in actors], np.int64),
        centre=transform(annotation.world2lidar, world_centre),
        size=2 * _column(actors, "extent", 3)[:, [1, 0, 2]],
        yaw=np.array([math.remainder(angle, 2 * math.pi) for angle in yaw.tolist()]),
        box_yaw=-yaw - math.pi / 2,
        velocity=speed[:, None] * np.stack([np.cos(yaw), np.sin(yaw)], axis=1),
        num_points=np.array(
            [actor.integer("num_points") if "num_points" in actor else -1 for actor in actors], np.int64
        ),
        actor2world=S @ _believing_yaw(poses, annotated_yaw) @ S,
        world_centre=world_centre,
    )


def _column(actors: Sequence[Record], key: str, width: int) -> np.ndarray:
    """(K, width) of a key that every actor has."""
    return np.array([actor.array(key, width) for actor in actors]).reshape(-1, width)


def _poses(actors: Sequence[Record], yaw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Actors to UE world (K, 4, 4), where no matrix tells by location and yaw; and who is a vehicle (K)."""
    keys = [next((key for key in _INVERSE_POSES if key in actor), None) for actor in actors]
    inverses = [
        rigid_inverse(pose_matrix(actor.array("location", 3), (0, 0, degrees)))
        if key is None
        else actor.pose(key)
        for actor, key, degrees in zip(actors, keys, yaw, strict=True)
    ]
    poses = np.linalg.inv(np.array(inverses).reshape(-1, 4, 4))
    return poses, np.array([key == "world2vehicle" for key in keys], dtype=bool)


def _believing_yaw(poses: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """Actors to UE world (K, 4, 4), for their future tracks.

    Where the annotated matrix and yaw disagree, the original conversion believes the yaw, without wrapping
    the difference; so a parked car's unreliable yaw counts.
    """
    poses = poses.copy()
    for index in np.flatnonzero(np.abs(np.radians(yaw) - heading(poses)) > YAW_TOLERANCE):
        poses[index] = pose_matrix(poses[index, :3, 3], (0, 0, yaw[index]))
    return poses


def _speed(actor: Record, centre: np.ndarray, before: np.ndarray | None) -> float:
    if "speed" not in actor:
        return 0.0
    if "vehicle" in actor.text("class"):
        return actor.number("speed", nan=0.0)
    return 0.0 if before is None else float(np.linalg.norm((centre - before)[:2])) * FRAME_RATE_HZ

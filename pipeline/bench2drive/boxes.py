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
from pipeline.bench2drive.classes import UNKNOWN, label_of
from pipeline.bench2drive.clips import FRAME_RATE_HZ
from pipeline.bench2drive.geometry import S, heading, pose_matrix, transform
from pipeline.bench2drive.visibility import Visibility, filter_corners, is_visible, load_depth

if TYPE_CHECKING:
    from pipeline.bench2drive.annotations import Annotation
    from pipeline.bench2drive.clips import RawClip
    from pipeline.bench2drive.record import Record

MAX_DISTANCE_M = 75.0
MAX_HEIGHT_M = 10.0
RANGE_M = 51.2

_INVERSE_POSES = ("world2vehicle", "world2ego", "world2sign", "world2ped")

_COLUMNS = {
    "id": (np.int64, ()),
    "label": (np.int64, ()),
    "centre": (np.float64, (3,)),
    "size": (np.float64, (3,)),
    "yaw": (np.float64, ()),
    "box_yaw": (np.float64, ()),
    "velocity": (np.float64, (2,)),
    "num_points": (np.int64, ()),
    "actor2world": (np.float64, (4, 4)),
    "world_centre": (np.float64, (3,)),
}
"""Element type and shape of one box's entry, so that a frame without boxes has them too."""


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
        depth = load_depth(clip, frame) if visibility == "depth" else None
        boxes = frame_boxes(annotation, last_seen)
        if visibility != "off":
            corners = map(filter_corners, boxes.centre, boxes.size, boxes.yaw)
            seen = [is_visible(points, annotation, depth) for points in corners]
            boxes = boxes.take(np.array(seen, dtype=bool))
        if len(boxes):
            last_seen = dict(zip(boxes.id.tolist(), boxes.world_centre, strict=True))
        frames.append(boxes)
    return frames


def frame_boxes(annotation: Annotation, last_seen: dict[int, np.ndarray]) -> Boxes:
    """Take the actors of one frame that are near enough; visibility is not looked at.

    Args:
        annotation: The frame.
        last_seen: Actor -> (3) middle of its box in the RH world, in the last frame that had boxes. The data
            gives walkers no speed, so theirs is taken from here.

    Raises:
        ClipError: An actor lacks a key.
    """
    if not annotation.boxes:
        return _stack([])
    ego_height = annotation.boxes[0].array("location", 3)[2]
    near = [
        actor
        for actor in annotation.boxes
        if actor.text("class") != "ego_vehicle"
        and actor.number("distance") <= MAX_DISTANCE_M
        and abs(actor.array("location", 3)[2] - ego_height) <= MAX_HEIGHT_M
    ]
    return _stack([_box(actor, annotation, last_seen) for actor in near])


def _box(actor: Record, annotation: Annotation, last_seen: dict[int, np.ndarray]) -> dict[str, object]:
    number = actor.integer("id")
    world_centre = actor.array("center", 3) * (1, -1, 1)
    if "world2vehicle" in actor:
        vehicle2world = np.linalg.inv(S @ actor.pose("world2vehicle") @ S)
        yaw = float(heading(annotation.world2lidar @ vehicle2world))
    else:
        yaw = -math.radians(actor.array("rotation", 3)[2]) - annotation.ego_yaw + math.pi / 2
    speed = _speed(actor, world_centre, last_seen.get(number))
    return {
        "id": number,
        "label": label_of(actor.text("type_id")),
        "centre": transform(annotation.world2lidar, world_centre),
        "size": 2 * actor.array("extent", 3)[[1, 0, 2]],
        "yaw": math.remainder(yaw, 2 * math.pi),
        "box_yaw": -yaw - math.pi / 2,
        "velocity": (speed * math.cos(yaw), speed * math.sin(yaw)),
        "num_points": actor.integer("num_points") if "num_points" in actor else -1,
        "actor2world": _actor2world(actor),
        "world_centre": world_centre,
    }


def _stack(boxes: list[dict[str, object]]) -> Boxes:
    return Boxes(
        **{
            name: np.array([box[name] for box in boxes], dtype).reshape(-1, *shape)
            for name, (dtype, shape) in _COLUMNS.items()
        }
    )


def _speed(actor: Record, centre: np.ndarray, before: np.ndarray | None) -> float:
    if "speed" not in actor:
        return 0.0
    if "vehicle" in actor.text("class"):
        return actor.number("speed", nan=0.0)
    return 0.0 if before is None else float(np.linalg.norm((centre - before)[:2])) * FRAME_RATE_HZ


def _actor2world(actor: Record) -> np.ndarray:
    """Return the actor's pose in the RH world, for its future track.

    Where the annotated matrix and yaw disagree, the original conversion believes the yaw, without wrapping
    the difference; so a parked car's unreliable yaw counts.
    """
    yaw = actor.array("rotation", 3)[2]
    key = next((key for key in _INVERSE_POSES if key in actor), None)
    if key is None:
        pose = pose_matrix(actor.array("location", 3), (0, 0, yaw))
    else:
        pose = np.linalg.inv(actor.pose(key))
        if abs(math.radians(yaw) - heading(pose)) > 0.01:
            pose = pose_matrix(pose[:3, 3], (0, 0, yaw))
    return S @ pose @ S

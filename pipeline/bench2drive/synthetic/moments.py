"""What is true of a frame of a synthetic clip, and what its cameras show, by its annotation alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.bench2drive.geometry import CAMERAS, IMAGE_HEIGHT, IMAGE_WIDTH, A, transform
from pipeline.bench2drive.record import Record
from pipeline.bench2drive.synthetic.drawing import NEAREST_M
from pipeline.bench2drive.synthetic.scene import RED

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class RoadUser:
    """A vehicle or a person."""

    kind: str
    """One of ``ROAD_USERS``."""
    distance_m: float
    """From the middle of the ego vehicle to its own, on the ground."""
    at: dict[str, tuple[float, float]]
    """Camera -> where its middle is in the image, as fractions of width and height."""
    touches: frozenset[str]
    """Cameras in whose image any corner of its box is."""


@dataclass(frozen=True)
class Moment:
    """One frame."""

    speed_mps: float
    heading_deg: float
    """Clockwise seen from above."""
    command: int
    """CARLA's road option at the next node of the route."""
    brakes: bool
    red_light: bool
    """Whether a red light concerns the ego vehicle."""
    road_users: tuple[RoadUser, ...]
    """The nearest first."""


ROAD_USERS = ("parked car", "driving car", "bicycle", "pedestrian")


def read_moment(path: Path) -> Moment:
    """Read an annotation.

    Raises:
        ClipError: It is not whole, or a key is missing or misshapen.
    """
    record = Record.read(path)
    ego, *boxes = record.children("bounding_boxes")
    lights = (box for box in boxes if box["class"] == "traffic_light")
    road_users = (_road_user(box, ego, record) for box in boxes if box["class"] in ("vehicle", "walker"))
    return Moment(
        speed_mps=record.number("speed"),
        heading_deg=float(ego.array("rotation", 3)[2]),
        command=record.integer("command_near"),
        brakes=bool(record["should_brake"]),
        red_light=any(light["affects_ego"] and light.integer("state") == RED for light in lights),
        road_users=tuple(sorted(road_users, key=lambda road_user: road_user.distance_m)),
    )


def _road_user(box: Record, ego: Record, record: Record) -> RoadUser:
    centre, corners = box.array("center", 3), box.array("world_cord", 8, 3)
    at, touches = {}, set()
    for name in CAMERAS:
        camera = record.child("sensors").child(name)
        world2cam, intrinsic = A.T @ camera.pose("world2cam"), camera.array("intrinsic", 3, 3)
        points = transform(world2cam, np.stack([centre, *corners]))
        pixels = points @ intrinsic.T
        ahead = points[:, 2] > NEAREST_M
        u, v = pixels[:, :2].T / np.where(ahead, points[:, 2], 1.0) / [[IMAGE_WIDTH], [IMAGE_HEIGHT]]
        inside = ahead & (u >= 0) & (u < 1) & (v >= 0) & (v < 1)
        if inside[0]:
            at[name] = float(u[0]), float(v[0])
        if inside.any():
            touches.add(name)
    return RoadUser(
        kind=_kind(box),
        distance_m=float(np.linalg.norm((centre - ego.array("center", 3))[:2])),
        at=at,
        touches=frozenset(touches),
    )


def _kind(box: Record) -> str:
    if box["class"] == "walker":
        return "pedestrian"
    if box["state"] == "static":
        return "parked car"
    return "bicycle" if box["base_type"] == "bicycle" else "driving car"

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pipeline.bench2drive.clips import RawClip
from pipeline.bench2drive.geometry import CAMERAS, LIDAR_TOP, pose_matrix
from pipeline.bench2drive.synthetic import write_demo_data

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def _frame_record(
    location: tuple[float, float, float] = (100.0, 50.0, 0.0), yaw: float = 30.0, **changes: Any
) -> dict[str, Any]:
    """The golden geometry frame: the ego at (100, 50), heading 30 degrees, alone on the road."""
    ego2world = pose_matrix(location, (0, 0, yaw))

    def sensor(mount, name):
        return {
            f"world2{name}": np.linalg.inv(ego2world @ mount.sensor2ego).tolist(),
            f"{name}2ego": mount.sensor2ego.tolist(),
        }

    cameras = {
        name: sensor(mount, "cam") | {"intrinsic": mount.intrinsic.tolist()}
        for name, mount in CAMERAS.items()
    }
    ego = {
        "class": "ego_vehicle",
        "id": "100",
        "type_id": "vehicle.lincoln.mkz_2020",
        "location": list(location),
        "rotation": [0, 0, yaw],
        "center": [location[0], location[1], 0.75],
        "extent": [2.45, 0.92, 0.75],
        "world2ego": np.linalg.inv(ego2world).tolist(),
    }
    record = {
        "x": 100.0,
        "y": 50.0,
        "theta": np.radians(yaw + 90.0),
        "speed": 7.5,
        "acceleration": [0.5, 0.2, 9.8],
        "angular_velocity": [0.01, -0.02, 0.3],
        "command_near": 4,
        "bounding_boxes": [ego],
        "sensors": cameras | {"LIDAR_TOP": sensor(LIDAR_TOP, "lidar")},
    }
    return record | changes


def _vehicle(**changes: Any) -> dict[str, Any]:
    """The vehicle of the golden box frame."""
    return {
        "class": "vehicle",
        "state": "dynamic",
        "id": "201",
        "type_id": "vehicle.audi.tt",
        "location": [120, 58, 0],
        "rotation": [0, 0, 45],
        "center": [120, 58, 0.75],
        "extent": [2.4, 1.0, 0.75],
        "num_points": 40,
        "distance": 21.540659,
        "speed": 6.0,
        "world2vehicle": np.linalg.inv(pose_matrix((120, 58, 0), (0, 0, 45))).tolist(),
    } | changes


def _walker(y: float = 48.0) -> dict[str, Any]:
    """The walker of the golden box frame."""
    return {
        "class": "walker",
        "id": "301",
        "type_id": "walker.pedestrian.0015",
        "location": [110, y, 1],
        "rotation": [0, 0, 120],
        "center": [110, y, 1],
        "extent": [0.19, 0.19, 0.93],
        "num_points": 12,
        "distance": 10.198039,
        "speed": 0.0,
        "world2ped": np.linalg.inv(pose_matrix((110, y, 1), (0, 0, 120))).tolist(),
    }


def _light() -> dict[str, Any]:
    """The traffic light of the golden box frame."""
    return {
        "class": "traffic_light",
        "id": "401",
        "type_id": "traffic.traffic_light",
        "location": [130, 60, 5],
        "rotation": [0, 0, -60],
        "center": [130, 60, 5],
        "extent": [0.2, 0.25, 0.5],
        "distance": 31.622777,
        "state": 0,
        "affects_ego": True,
    }


@pytest.fixture
def frame_record() -> Callable[..., dict[str, Any]]:
    return _frame_record


@pytest.fixture
def vehicle() -> Callable[..., dict[str, Any]]:
    return _vehicle


@pytest.fixture
def walker() -> Callable[..., dict[str, Any]]:
    return _walker


@pytest.fixture
def light() -> dict[str, Any]:
    return _light()


@pytest.fixture
def write_clip(tmp_path: Path) -> Callable[[list[dict[str, Any]]], RawClip]:
    """Writes annotations, without images, as a clip."""

    def write(records: list[dict[str, Any]]) -> RawClip:
        anno = tmp_path / "Accident_Town03_Route9001_Weather0" / "anno"
        anno.mkdir(parents=True)
        for frame, record in enumerate(records):
            (anno / f"{frame:05d}.json.gz").write_bytes(gzip.compress(json.dumps(record).encode()))
        return RawClip(anno.parent)

    return write


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight short synthetic clips. Tests only read them."""
    root = tmp_path_factory.mktemp("demo") / "data"
    write_demo_data(root, clips=8, frames=3)
    return root


@pytest.fixture
def clip_of(write_clip, frame_record):
    """A clip with the given actors in each frame, and the ego standing at the golden place."""

    def write(*frames):
        records = [frame_record() for _ in frames]
        for record, actors in zip(records, frames, strict=True):
            record["bounding_boxes"] += actors
        return write_clip(records)

    return write

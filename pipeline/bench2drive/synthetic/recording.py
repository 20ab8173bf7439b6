"""A scene as Bench2Drive's annotations, with every key of them (spec: Bench2Drive, section 1.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.bench2drive.geometry import (
    CAMERAS,
    IMAGE_HEIGHT,
    IMAGE_WIDTH,
    LIDAR_TOP,
    Mount,
)
from pipeline.bench2drive.synthetic.scene import RED, Actor, Scene

if TYPE_CHECKING:
    from numpy.random import Generator

TOP_DOWN = Mount((0.0, 0.0, 50.0), pitch=-90, fov=110)
RADARS = {
    "RADAR_FRONT": Mount((2.27, 0.0, 0.48), fov=30),
    "RADAR_FRONT_LEFT": Mount((1.21, -0.85, 0.74), yaw=-90, fov=30),
    "RADAR_FRONT_RIGHT": Mount((1.21, 0.85, 0.74), yaw=90, fov=30),
    "RADAR_BACK_LEFT": Mount((-2.0, -0.67, 0.51), yaw=-90, fov=30),
    "RADAR_BACK_RIGHT": Mount((-2.0, 0.67, 0.51), yaw=-90, fov=30),
}
"""The yaw of the last one is wrong in the original dataset, and therefore here."""

RECORDED_WITHIN_M = 100.0
GNSS_MOUNT_X_M = -1.4
NEAR_M, FAR_M = 7.5, 50.0
"""How far ahead the two route nodes lie."""

WEATHERS = {
    0: (5, 0, 0, 10, -1, 90, 2, 0.75, 0, 0.1),
    3: (80, 0, 40, 10, -1, 45, 3, 0.75, 60, 0.1),
    7: (90, 50, 60, 60, -1, 45, 7, 0.75, 60, 0.1),
    14: (20, 0, 0, 10, -1, -90, 2, 0.75, 0, 0.1),
    18: (60, 0, 0, 30, -1, 10, 40, 0.75, 0, 0.1),
}
"""Weather id -> values in the order of the keys below, made up in the likeness of CARLA's presets."""

_WEATHER_KEYS = (
    "cloudiness",
    "precipitation",
    "precipitation_deposits",
    "wind_intensity",
    "sun_azimuth_angle",
    "sun_altitude_angle",
    "fog_density",
    "fog_distance",
    "wetness",
    "fog_falloff",
)


class Recorder:
    """Turns the frames of one scene into annotations, with the noise of GNSS and IMU."""

    def __init__(self, scene: Scene, weather: int, rng: Generator) -> None:
        frames = len(scene.drive.s)
        self.scene = scene
        self.weather = {
            key: float(value) for key, value in zip(_WEATHER_KEYS, WEATHERS[weather], strict=True)
        }
        self.gnss_noise = rng.normal(0, 0.3, (frames, 2))
        self.accelerometer_noise = rng.normal(0, (0.001, 0.001, 0.015), (frames, 3))
        self.gyroscope_noise = rng.normal(0, 0.001, (frames, 3))

    def annotation(self, frame: int) -> dict[str, Any]:
        """Return one frame's JSON object."""
        scene, drive = self.scene, self.scene.drive
        speed, acceleration = drive.speed[frame], drive.acceleration[frame]
        yaw_rate = drive.yaw_rate[frame]
        yaw = drive.yaw[frame]
        forward = np.array([np.cos(yaw), np.sin(yaw)])
        x, y = drive.position[frame] + GNSS_MOUNT_X_M * forward + self.gnss_noise[frame]
        near, far = (self._node(drive.s[frame] + distance) for distance in (NEAR_M, FAR_M))
        record = {
            "x": x,
            "y": y,
            "throttle": np.clip(acceleration / 3 + 0.2, 0, 0.75) if acceleration > -0.5 else 0.0,
            "steer": np.clip(0.5 * yaw_rate, -1, 1),
            "brake": np.clip(-acceleration / 4, 0, 1) if acceleration <= -0.5 else 0.0,
            "reverse": False,
            "theta": (yaw + np.pi / 2) % (2 * np.pi),
            "speed": speed,
            "x_command_far": far[0],
            "y_command_far": far[1],
            "command_far": far[2],
            "x_command_near": near[0],
            "y_command_near": near[1],
            "command_near": near[2],
            "should_brake": acceleration <= -0.5,
            "x_target": far[0],
            "y_target": far[1],
            "next_command": far[2],
            "weather": self.weather,
            "acceleration": np.array([acceleration, speed * yaw_rate, 9.81])
            + self.accelerometer_noise[frame],
            "angular_velocity": np.array([0.0, 0.0, yaw_rate]) + self.gyroscope_noise[frame],
            "bounding_boxes": [self._box(scene.ego, frame), *self._neighbours(frame)],
            "sensors": _sensors(scene.ego.pose(frame)),
            "only_ap_brake": False,
        }
        return _plain(record)

    def _node(self, s: float) -> tuple[float, float, int]:
        route = self.scene.route
        (x, y), _ = route.at(s, np.interp(s, route.s, route.shift))
        return x, y, int(route.option_at(s))

    def _neighbours(self, frame: int) -> list[dict[str, Any]]:
        boxes = [self._box(actor, frame) for actor in self.scene.actors]
        return [box for box in boxes if box["distance"] <= RECORDED_WITHIN_M]

    def _box(self, actor: Actor, frame: int) -> dict[str, Any]:
        box = {
            "id": str(actor.id),
            "type_id": actor.type_id,
            "location": actor.location[frame],
            "rotation": actor.rotation[frame],
            "center": actor.centre(frame),
            "extent": actor.extent,
            "road_id": 1,
            "lane_id": -1,
            "section_id": 0,
        }
        if actor.kind != "ego":
            here = self.scene.ego.location[frame, :2]
            box["distance"] = np.linalg.norm(actor.location[frame, :2] - here)
        return box | self._particulars(actor, frame)

    def _particulars(self, actor: Actor, frame: int) -> dict[str, Any]:
        """Return the keys that only actors of this kind have."""
        world2actor = np.linalg.inv(actor.pose(frame))
        body = {"bbx_loc": (0.0, 0.0, actor.rise), "world_cord": actor.corners(frame)}
        distance = np.linalg.norm(actor.location[frame, :2] - self.scene.ego.location[frame, :2])
        hits = {"num_points": max(1, int(600 / max(distance, 2.0)))}
        color = ",".join(map(str, actor.color))
        trigger = {
            "trigger_volume_location": (*actor.location[frame, :2], 0.5),
            "trigger_volume_rotation": (0.0, 0.0, actor.rotation[frame, 2] % 360),
            "trigger_volume_extent": (1.5, 3.0, 0.5),
        }
        match actor.kind:
            case "ego":
                braking = np.clip(-self.scene.drive.acceleration[frame] / 4, 0, 1)
                return body | {
                    "class": "ego_vehicle",
                    "base_type": "car",
                    "semantic_tags": [[14]],
                    "color": color,
                    "speed": actor.speed[frame],
                    "brake": braking,
                    "world2ego": world2actor,
                }
            case "vehicle" | "parked":
                moving = actor.kind == "vehicle"
                bicycle = actor.type_id == "vehicle.bh.crossbike"
                driven = {"color": color, "base_type": "bicycle" if bicycle else "car"} if moving else {}
                return (body | hits | driven) | {
                    "class": "vehicle",
                    "state": "dynamic" if moving else "static",
                    "semantic_tags": [19 if bicycle else 14],
                    "speed": actor.speed[frame],
                    "brake": 0.0 if moving else 1.0,
                    "light_state": "NONE",
                    "world2vehicle": world2actor,
                }
            case "walker":
                return (body | hits) | {
                    "class": "walker",
                    "semantic_tags": [12],
                    "gender": "female",
                    "age": "adult",
                    "speed": 0.0,
                    "bone": [],
                    "world2ped": world2actor,
                }
            case "light":
                assert actor.state is not None
                concerns_ego = self.scene.stop_line is not None and actor.state[frame] == RED
                return trigger | {
                    "class": "traffic_light",
                    "semantic_tags": [7],
                    "state": actor.state[frame],
                    "affects_ego": concerns_ego,
                }
            case "sign":
                return trigger | {
                    "class": "traffic_sign",
                    "semantic_tags": [8],
                    "affects_ego": False,
                    "world2sign": world2actor,
                }
            case "prop":
                return body | {
                    "class": "traffic_sign",
                    "semantic_tags": [20],
                    "affects_ego": False,
                    "world2sign": world2actor,
                }


def _sensors(ego2world: np.ndarray) -> dict[str, Any]:
    cameras = {name: _camera(mount, ego2world) for name, mount in (CAMERAS | {"TOP_DOWN": TOP_DOWN}).items()}
    radars = {name: _placed(mount, ego2world, "radar") for name, mount in RADARS.items()}
    return cameras | {"LIDAR_TOP": _placed(LIDAR_TOP, ego2world, "lidar")} | radars


def _camera(mount: Mount, ego2world: np.ndarray) -> dict[str, Any]:
    return _placed(mount, ego2world, "cam") | {
        "intrinsic": mount.intrinsic,
        "fov": mount.fov,
        "image_size_x": IMAGE_WIDTH,
        "image_size_y": IMAGE_HEIGHT,
    }


def _placed(mount: Mount, ego2world: np.ndarray, sensor: str) -> dict[str, Any]:
    pose = ego2world @ mount.sensor2ego
    pitch = np.arcsin(np.clip(pose[2, 0], -1, 1))
    yaw, roll = np.arctan2(pose[1, 0], pose[0, 0]), np.arctan2(-pose[2, 1], pose[2, 2])
    return {
        "location": pose[:3, 3],
        "rotation": np.degrees([pitch, roll, yaw]),
        f"world2{sensor}": np.linalg.inv(pose),
        f"{sensor}2ego": mount.sensor2ego,
    }


def _plain(value: Any) -> Any:
    """Turn arrays and NumPy numbers into JSON's own. Nine digits are more than CARLA has."""
    match value:
        case dict():
            return {key: _plain(entry) for key, entry in value.items()}
        case np.ndarray() if value.dtype.kind == "f":
            return (np.round(value, 9) + 0.0).tolist()
        case np.ndarray() | np.integer() | np.bool_():
            return value.tolist()
        case list() | tuple():
            return [_plain(entry) for entry in value]
        case float() | np.floating():
            return round(float(value), 9) + 0.0
    return value

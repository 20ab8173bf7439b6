"""A toy to drive in: a synthetic scene, seen from wherever the ego is. Its scores mean nothing elsewhere.

Other road users move as the scene says, at 10 Hz; they take no notice of the ego, and feel nothing when hit.

Axes are the UE world's: x forward, y right, yaw clockwise seen from above, metres and degrees.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cache_schema.errors import RequestError
from pipeline.bench2drive.geometry import CAMERAS, IMAGE_HEIGHT, IMAGE_WIDTH, LIDAR_TOP, pose_matrix
from pipeline.bench2drive.rehearsal.bicycle import Bicycle
from pipeline.bench2drive.rehearsal.criteria import (
    Blocked,
    Collisions,
    InRoute,
    MinimumSpeed,
    Obstacle,
    OutsideLanes,
    Progress,
    RedLight,
    rectangle,
)
from pipeline.bench2drive.rehearsal.sensed import Sensed
from pipeline.bench2drive.rehearsal.world import (
    TICK_S,
    WARM_UP_TICKS,
    Event,
    Pose,
    RouteTask,
    geographic,
    metric_info,
)
from pipeline.bench2drive.synthetic.drawing import ROAD_EDGES_M, Painter
from pipeline.bench2drive.synthetic.driving import DT_S
from pipeline.bench2drive.synthetic.route import LANE_WIDTH_M, STEP_M
from pipeline.bench2drive.synthetic.scene import RED, Scene

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.random import Generator

    from pipeline.bench2drive.rehearsal.world import Control
    from pipeline.bench2drive.synthetic.scene import Scene

CAMERA = "sensor.camera.rgb"

ROUTE_M = 60
"""Length of a route: every manoeuvre ends on it."""
TICKS_A_FRAME = round(DT_S / TICK_S)

GNSS_NOISE_DEG = 5e-6
ACCELEROMETER_NOISE = (0.001, 0.001, 0.015)
GYROSCOPE_NOISE = (0.001, 0.001, 0.001)
GRAVITY = 9.81

OBSTACLES = {"vehicle": "collisions_vehicle", "walker": "collisions_pedestrian"}
"""Kind of an actor -> kind of the event when it is hit; all others are layout."""


class ToyWorld:
    """Implements ``World`` by a scene.

    Args:
        scene: The scene, with as many frames as a drive may take.
        number: Of the route.
        town: Whose place on Earth is taken.
        scenario: Of the scene.
        weather: A key of ``synthetic.recording.WEATHERS``.
        rng: Draws what stands beside the road, and the sensors' noise.
        cameras: Whether the cameras see anything but black. Painting takes longer than all else.
    """

    kind = "toy"

    def __init__(
        self,
        scene: Scene,
        *,
        number: int,
        town: str,
        scenario: str,
        weather: int,
        rng: Generator,
        cameras: bool = True,
    ) -> None:
        self.scene = scene
        self.route = _route_of(scene, number, town, scenario, weather)
        self.tick = 0
        self.events: list[Event] = []
        self.over = False
        start = self.route.positions[0]
        self.ego = Bicycle(float(start[0]), float(start[1]), float(self.route.yaw[0]))
        self._painter = Painter(scene, weather, rng) if cameras else None
        self._rng = rng
        self._sensors: tuple[Mapping[str, Any], ...] = ()
        road = scene.route
        self._lane, _ = road.at(road.s, road.shift)
        self._road = np.stack([road.x, road.y], axis=1)
        self._node = int(np.searchsorted(road.s, 0.0))
        self._progress = Progress(self.route)
        self._endings = (InRoute(self.route), Blocked())
        self._collisions = Collisions(scene.ego.extent[:2])
        # Two lanes lead the ego's way: its own, and the one to the left of it.
        self._lanes = OutsideLanes(-1.5 * LANE_WIDTH_M, 0.5 * LANE_WIDTH_M)
        self._speeds = MinimumSpeed(float(self.route.along[-1]))
        self._light = next(actor for actor in scene.actors if actor.state is not None)
        self._red_light = self._stop_line()

    @property
    def pose(self) -> Pose:
        """Of the ego."""
        return self.ego.pose

    @property
    def completion(self) -> float:
        """Percent of the route."""
        return self._progress.percent

    @property
    def frame(self) -> int:
        """Of the scene, now: others have moved during the warm-up."""
        return min((self.tick + WARM_UP_TICKS) // TICKS_A_FRAME, len(self.scene.drive.s) - 1)

    @property
    def road(self) -> np.ndarray:
        """(2, N, 2) left and right edge of the road."""
        road = self.scene.route
        return np.stack([road.at(road.s, edge)[0] for edge in ROAD_EDGES_M])

    def others(self) -> np.ndarray:
        """Return corners (A, 4, 2) of other road users and things, now and seen from above."""
        return np.array([obstacle.corners for obstacle in self._obstacles()])

    def attach(self, sensors: Sequence[Mapping[str, Any]]) -> None:
        """Mount sensors.

        Raises:
            RequestError: The toy has no such sensor, or a camera of the rig is mounted elsewhere.
        """
        for sensor in sensors:
            if sensor["type"] not in (CAMERA, *_SENSES):
                raise RequestError(
                    f"the agent mounts a {sensor['type']} as {sensor['id']}",
                    expected=f"sensors that a rehearsal has: {', '.join((CAMERA, *_SENSES))}",
                    repair="leave it out, or drive in CARLA",
                )
            if sensor["id"] in CAMERAS and not _in_rig(sensor):
                raise RequestError(
                    f"the agent mounts {sensor['id']} otherwise than Bench2Drive: {dict(sensor)}",
                    expected=f"{CAMERAS[sensor['id']]}, {IMAGE_WIDTH}x{IMAGE_HEIGHT}",
                    repair="correct the sensor, or give another name to a camera that is none of the six",
                )
        self._sensors = tuple(sensors)

    def sense(self) -> Sensed:
        """Return the data of all sensors."""
        values = {
            sensor["id"]: _SENSES[sensor["type"]](self, sensor)
            for sensor in self._sensors
            if sensor["type"] != CAMERA
        }
        cameras = tuple(sensor["id"] for sensor in self._sensors if sensor["type"] == CAMERA)
        return Sensed(self.tick, values, partial(self._images, self.frame, self.pose), cameras)

    def apply(self, control: Control) -> None:
        """Drive on by one tick, and judge it."""
        self.ego.step(control.throttle, control.steer, control.brake)
        self.tick += 1
        pose = self.pose
        before = self._progress.node
        self._progress.step(pose)
        advance = self.route.along[self._progress.node] - self.route.along[before]
        self._lanes.step(float(advance), self._lateral())
        endings = [ending.step(pose) for ending in self._endings]
        events = [*endings, self._collisions.step(pose, self._obstacles())]
        if self._red_light is not None:
            s = float(self.scene.route.s[self._node])
            events.append(self._red_light.step(s, red=self._light_state() == RED))
        others = [actor.speed[self.frame] for actor in self.scene.actors if actor.kind == "vehicle"]
        along = float(self.route.along[self._progress.node])
        events.append(self._speeds.step(along, pose.speed_m_s, others))
        self.events += [event for event in events if event is not None]
        self.over = any(endings) or self.completion >= 100

    def finish(self) -> None:
        """Say what is to be said of the whole drive."""
        if self.completion > 95:
            self.events.append(self._speeds.event())
        if outside := self._lanes.event():
            self.events.append(outside)

    def metric_info(self) -> dict[str, list[float]]:
        """Return the ego's motion as ``AutonomousAgent.get_metric_info`` does."""
        return metric_info(self.pose, self.ego.acceleration, math.degrees(self.ego.yaw_rate))

    def true_plan(self) -> np.ndarray:
        """Return what the scene's driver would do from here: (6, 2) positions, metres, LiDAR frame."""
        pose = self.pose
        s = float(self.scene.route.s[self._nearest(self._lane)])
        lidar = self.scene.driven_on(self.frame, s=s, speed=pose.speed_m_s)
        x = LIDAR_TOP.location[0]
        cos, sin = math.cos(math.radians(pose.yaw)), math.sin(math.radians(pose.yaw))
        offsets = lidar - (pose.x + x * cos, pose.y + x * sin)
        return offsets @ np.array([[-sin, cos], [cos, sin]])

    def _nearest(self, line: np.ndarray) -> int:
        """Return the nearest of a line's points that is near to the last one: the road may cross itself."""
        first = max(self._node - round(5 / STEP_M), 0)
        near = line[first : self._node + round(15 / STEP_M)]
        return first + int(np.linalg.norm(near - self.pose[:2], axis=1).argmin())

    def _lateral(self) -> float:
        """Return how far to the right of the road's reference line the ego is."""
        self._node = self._nearest(self._road)
        yaw = self.scene.route.yaw[self._node]
        dx, dy = self.pose[:2] - self._road[self._node]
        return float(-dx * np.sin(yaw) + dy * np.cos(yaw))

    def _light_state(self) -> int:
        assert self._light.state is not None
        return int(self._light.state[self.frame])

    def _stop_line(self) -> RedLight | None:
        if self.scene.stop_line is None:
            return None
        x, y, z = (round(float(value), 3) for value in self._light.location[0])
        light = f"{self._light.id} at ({x=}, {y=}, {z=})"
        return RedLight(self.scene.stop_line, self.scene.ego.extent[0], light)

    def _obstacles(self) -> Iterator[Obstacle]:
        frame = self.frame
        for actor in self.scene.actors:
            yaw = float(actor.rotation[frame, 2])
            corners = rectangle(actor.location[frame, :2], yaw, actor.extent[:2])
            kind = OBSTACLES.get(actor.kind, "collisions_layout")
            yield Obstacle(kind, actor.id, actor.type_id, corners)

    def _images(self, frame: int, pose: Pose) -> dict[str, np.ndarray]:
        """Return what the cameras see, (H, W, 4) uint8, BGRA: all that are none of the rig's see black."""
        images = {}
        for sensor in self._sensors:
            if sensor["type"] == CAMERA:
                images[sensor["id"]] = np.zeros((sensor["height"], sensor["width"], 4), np.uint8)
                images[sensor["id"]][:, :, 3] = 255
        if self._painter is not None and not CAMERAS.keys().isdisjoint(images):
            ego = pose_matrix((pose.x, pose.y, 0.0), (0.0, 0.0, pose.yaw))
            for name, image in self._painter.paint(frame, ego):
                if name in images:
                    images[name][:, :, 2::-1] = np.asarray(image)
        return images

    def _gnss(self, sensor: Mapping[str, Any]) -> np.ndarray:
        ego2world = pose_matrix((self.pose.x, self.pose.y, 0.0), (0.0, 0.0, self.pose.yaw))
        place = (ego2world @ (sensor["x"], sensor["y"], sensor["z"], 1.0))[:3]
        return geographic(place, self.route.reference) + self._rng.normal(0, GNSS_NOISE_DEG, 3)

    def _imu(self, sensor: Mapping[str, Any]) -> np.ndarray:
        compass = (math.radians(self.pose.yaw) + math.pi / 2) % (2 * math.pi)
        noise = self._rng.normal(0, (*ACCELEROMETER_NOISE, *GYROSCOPE_NOISE, 0.0))
        true = np.array([*self.ego.acceleration, GRAVITY, 0.0, 0.0, self.ego.yaw_rate, compass])
        return true + noise

    def _speedometer(self, sensor: Mapping[str, Any]) -> dict[str, float]:
        return {"speed": self.pose.speed_m_s}


_SENSES = {
    "sensor.other.gnss": ToyWorld._gnss,
    "sensor.other.imu": ToyWorld._imu,
    "sensor.speedometer": ToyWorld._speedometer,
}


def _in_rig(sensor: Mapping[str, Any]) -> bool:
    """Return whether a sensor is a camera of Bench2Drive's rig."""
    mount = CAMERAS.get(sensor["id"])
    if mount is None or sensor["type"] != CAMERA:
        return False
    stated = [sensor[key] for key in ("x", "y", "z", "pitch", "roll", "yaw", "fov", "width", "height")]
    turned = (mount.pitch, 0.0, mount.yaw, mount.fov)
    return stated == [*mount.location, *turned, IMAGE_WIDTH, IMAGE_HEIGHT]


def _route_of(scene: Scene, number: int, town: str, scenario: str, weather: int) -> RouteTask:
    s = np.arange(ROUTE_M + 1.0)
    road = scene.route
    positions, yaw = road.at(s, np.interp(s, road.s, road.shift))
    return RouteTask(
        id=number,
        town=town,
        scenario=scenario,
        weather=weather,
        positions=np.column_stack([positions, np.zeros(len(s))]),
        yaw=np.degrees(yaw + np.arctan(road.slope_of_shift(s))),
        options=road.option_at(s),
    )

"""Drives in the toy: the true plan is perfect, and every fault is found."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from cache_schema.errors import RequestError
from pipeline.bench2drive.geometry import CAMERAS, pose_matrix
from pipeline.bench2drive.rehearsal.bicycle import Bicycle
from pipeline.bench2drive.rehearsal.toy import GNSS_NOISE_DEG, ROUTE_M
from pipeline.bench2drive.rehearsal.toys import draw_toy
from pipeline.bench2drive.rehearsal.world import EARTH_RADIUS_M, Pose, geographic
from pipeline.bench2drive.synthetic.drawing import Painter
from pipeline.bench2drive.synthetic.manoeuvres import MANOEUVRES
from pipeline.bench2drive.synthetic.scene import GREEN, draw_scene
from tests.pipeline.bench2drive.rehearsal.driving import (
    FULL_AHEAD,
    FULL_LEFT,
    SCRIPTED,
    STILL,
    TRUE_PLAN,
    drive,
    infractions,
    scripted,
    toy_of,
)
from tests.student.closed_loop.recorded import DRIVES


@pytest.mark.parametrize("index", range(2 * len(MANOEUVRES)))
def test_the_true_plan_is_driven_without_fault(index):
    record = drive(TRUE_PLAN, draw_toy(index, cameras=False)).record
    assert record["scores"] == {"score_route": 100.0, "score_penalty": 1.0, "score_composed": 100.0}
    assert record["status"] == "Completed"  # speeds are compared, which is an event
    assert infractions(record) == {}
    # A part is closed at the first node, 1 m apart, beyond its 3 m, and the last one at the end.
    assert 60 // 4 <= len(record["infractions"]["min_speed_infractions"]) <= 20


def test_standing_still_is_blocked():
    done = drive(SCRIPTED, draw_toy(0, cameras=False), scripted(STILL))
    assert done.record["status"] == "Failed - Agent got blocked"
    assert set(infractions(done.record)) == {"vehicle_blocked"}
    assert done.record["scores"]["score_composed"] == 0.0
    assert done.record["meta"]["duration_game"] == 60.05  # more than 60 s
    assert not np.ptp(done.poses, axis=0).any()


def test_full_left_deviates():
    done = drive(SCRIPTED, draw_toy(0, cameras=False), scripted(FULL_LEFT))
    assert done.record["status"] == "Failed - Agent deviated from the route"
    assert "route_dev" in infractions(done.record)
    assert done.record["scores"]["score_route"] < 50


def test_the_car_ahead_is_hit():
    done = drive(TRUE_PLAN, draw_toy(toy_of("HardBreakRoute"), cameras=False), "reckless")
    hit = infractions(done.record)["collisions_vehicle"]
    assert hit[0].startswith("Agent collided against object with type=vehicle.")
    assert "and id=201 at (x=" in hit[0]
    others = math.prod(
        {"collisions_vehicle": 0.6, "collisions_layout": 0.65, "collisions_pedestrian": 0.5}.get(kind, 1.0)
        ** len(found)
        for kind, found in infractions(done.record).items()
    )
    outside = infractions(done.record).get("outside_route_lanes", ["(0% of"])
    share = float(outside[0].partition("(")[2].partition("%")[0]) / 100
    scores = done.record["scores"]
    assert scores["score_penalty"] == pytest.approx(others * (1 - share), abs=1e-6)
    assert scores["score_composed"] == pytest.approx(scores["score_route"] * others * (1 - share), abs=1e-4)


def test_a_red_light_is_run():
    """At 3 m/s2 the tail, 1.96 m behind, is over the line before or after green; the warm-up takes 0.5 s."""
    runs = []
    for seed in range(6):
        world = draw_toy(toy_of("TJunction"), seed=seed, cameras=False)
        light = next(actor for actor in world.scene.actors if actor.state is not None)
        green_s = 0.1 * np.argmax(light.state == GREEN) - 0.5
        passed_s = math.sqrt(2 * (world.scene.stop_line + 1.96) / 3.0)
        assert abs(green_s - passed_s) > 0.1, "too near to tell by hand"
        found = infractions(drive(TRUE_PLAN, world, "reckless").record).get("red_light", [])
        runs.append(passed_s < green_s)
        assert len(found) == runs[-1]
        assert all(message.startswith("Agent ran a red light 401 at (x=") for message in found)
    assert {*runs} == {True, False}


def test_a_crawl_takes_too_long():
    """A tenth of a second of full throttle makes 0.3 m/s, which is neither blocked nor fast enough."""
    done = drive(SCRIPTED, draw_toy(toy_of("TJunction"), cameras=False), scripted(FULL_AHEAD, until_s=0.1))
    assert done.record["status"] == "Failed - TickRuntime"
    assert len(done.controls) == 4000
    assert done.record["meta"]["duration_game"] == 200.0
    assert np.linalg.norm(done.poses[-1, :2] - done.poses[0, :2]) == pytest.approx(0.3 * 200, abs=0.1)


def test_two_drives_are_the_same_to_the_bit():
    sensors = [
        ANTENNA | {"type": "sensor.other.gnss", "id": "GPS"},
        ANTENNA | {"type": "sensor.other.imu", "id": "IMU"},
    ]
    seen = []
    for _ in range(2):
        world = draw_toy(3, seed=5, cameras=False)
        world.attach(sensors)
        for _ in range(20):
            world.apply(_control(0.5, 0.1))
            seen.append(np.concatenate([data for _, data in world.sense().values()]))
    np.testing.assert_array_equal(seen[:20], seen[20:])
    assert np.ptp(np.array(seen[:20]), axis=0).min() > 0


class _control:  # noqa: N801
    def __init__(self, throttle, steer, brake=0.0):
        self.throttle, self.steer, self.brake = throttle, steer, brake


def test_the_bicycle_turns_as_its_wheels_do():
    """Middle of the axles at slip b = atan(tan(d) / 2): a circle of the radius L / 2 / sin(b)."""
    ego = Bicycle(0.0, 0.0, 0.0)
    for _ in range(20):
        ego.step(1.0, 0.0, 0.0)
    assert ego.pose == pytest.approx((1.5, 0.0, 0.0, 3.0))  # 3 m/s2 for 1 s
    radius = 2.85 / 2 / math.sin(math.atan(math.tan(0.6 * 0.5) / 2))
    assert 3.0**2 / radius < 8
    turn = 0.0
    while turn < 180:
        ego.step(0.0, 0.5, 0.0)
        turn = ego.pose.yaw
    ticks = round(math.pi * radius / (3.0 * 0.05))
    assert turn == pytest.approx(math.degrees(ticks * 0.05 * 3.0 / radius), abs=2.1)
    # After half a circle it is a diameter away, to the right of its course: that is, of heading and slip.
    slip = math.asin(2.85 / 2 / radius)
    x, y = ego.pose.x - 1.5, ego.pose.y
    assert math.hypot(x, y) == pytest.approx(2 * radius, rel=2e-3)
    assert math.degrees(math.atan2(y, x)) == pytest.approx(90 + math.degrees(slip), abs=2.1)


def test_brakes_and_grip():
    ego = Bicycle(0.0, 0.0, 90.0)
    for _ in range(200):
        ego.step(1.0, 0.0, 0.0)
    assert ego.pose.speed_m_s == pytest.approx(30.0)
    ego.step(0.0, 1.0, 0.0)
    assert ego.acceleration[1] == pytest.approx(8.0)
    assert ego.yaw_rate == pytest.approx(8.0 / 30.0)
    began = ego.pose.y
    ego = Bicycle(0.0, began, 90.0)
    ego.pose = ego.pose._replace(speed_m_s=12.0)
    for _ in range(60):
        ego.step(0.0, 0.0, 1.0)
    assert ego.pose.speed_m_s == 0.0
    assert ego.pose.y - began == pytest.approx(12.0**2 / 2 / 8.0)


@pytest.mark.parametrize("path", DRIVES, ids=lambda path: path.stem)
def test_positions_on_earth_are_the_leaderboard_s(path):
    recorded = json.loads(path.read_text())
    world, gps = np.array(recorded["plan_world"]), np.array(recorded["plan_gps"])
    found = geographic(world[:, :3], tuple(recorded["map_reference"]))
    np.testing.assert_allclose(found, gps[:, :3], rtol=0, atol=1e-11)


ANGLES = {"roll": 0.0, "pitch": 0.0, "yaw": 0.0}
ANTENNA = {"x": -1.4, "y": 0.0, "z": 0.0}


def rig():
    upright = {"type": "sensor.camera.rgb", "roll": 0.0, "width": 1600, "height": 900}
    return [
        dict(
            upright,
            id=name,
            **dict(zip("xyz", mount.location, strict=True)),
            yaw=mount.yaw,
            pitch=0.0,
            fov=mount.fov,
        )
        for name, mount in CAMERAS.items()
    ]


def test_sensors_tell_where_the_ego_is():
    world = draw_toy(0)  # Town03, whose origin is at 0 degrees
    top = {
        "type": "sensor.camera.rgb",
        "id": "bev",
        "x": 0.0,
        "y": 0.0,
        "z": 50.0,
        "roll": 0.0,
        "pitch": -90.0,
    }
    others = [
        dict(top, yaw=0.0, width=512, height=512, fov=50),
        ANTENNA | {"type": "sensor.other.gnss", "id": "GPS"},
        ANTENNA | {"type": "sensor.other.imu", "id": "IMU"},
        {"type": "sensor.speedometer", "id": "SPEED"},
    ]
    world.attach([*rig(), *others])
    for _ in range(10):
        world.apply(_control(1.0, 0.2))
    data = {name: value for name, (_, value) in world.sense().items()}
    x, y, yaw, speed = world.pose
    assert data["SPEED"] == {"speed": speed}
    assert speed == pytest.approx(1.5)
    degree = math.pi / 180 * EARTH_RADIUS_M  # near to the equator
    cos, sin = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
    there = np.array([-(y - 1.4 * sin), x - 1.4 * cos]) / degree
    np.testing.assert_allclose(data["GPS"][:2], there, rtol=0, atol=6 * GNSS_NOISE_DEG)
    compass = (math.radians(yaw) + math.pi / 2) % (2 * math.pi)
    np.testing.assert_allclose(data["IMU"][[0, 2, 6]], [3.0, 9.81, compass], rtol=0, atol=0.1)
    assert data["IMU"][5] == pytest.approx(world.ego.yaw_rate, abs=0.006)
    assert not data["bev"][:, :, :3].any()
    assert data["bev"].shape == (512, 512, 4)
    ego = pose_matrix((x, y, 0.0), (0.0, 0.0, yaw))
    for name, image in world._painter.paint(world.frame, ego):
        assert data[name].dtype == np.uint8
        np.testing.assert_array_equal(data[name][:, :, 2::-1], np.asarray(image))
        assert (data[name][:, :, 3] == 255).all()


def test_nothing_is_painted_before_it_is_looked_at():
    world = draw_toy(0)
    world.attach([*rig(), {"type": "sensor.speedometer", "id": "SPEED"}])
    data, place = world.sense(), (world.frame, world.pose)
    for _ in range(5):
        world.apply(_control(1.0, 0.2))
    painted = []
    paint, world._painter.paint = world._painter.paint, lambda *at: painted.append(at) or paint(*at)
    assert list(data) == [*CAMERAS, "SPEED"]
    assert len(data) == 7
    assert "CAM_BACK" in data
    assert "REPLAY" not in data
    assert data["SPEED"] == (0, {"speed": 0.0})
    assert painted == []
    images = {name: data[name][1] for name in CAMERAS}
    assert len(painted) == 1
    expected = world._images(*place)  # of when it was sensed
    assert all((images[name] == expected[name]).all() for name in CAMERAS)
    assert not (world._images(world.frame, world.pose)["CAM_FRONT"] == images["CAM_FRONT"]).all()


def test_black_cameras_see_nothing():
    world = draw_toy(0, cameras=False)
    world.attach(rig())
    for _, image in world.sense().values():
        assert image.shape == (900, 1600, 4)
        assert not image[:, :, :3].any()


@pytest.mark.parametrize(
    ("sensor", "what"),
    [
        ({"type": "sensor.lidar.ray_cast", "id": "LIDAR"}, "mounts a sensor.lidar.ray_cast as LIDAR"),
        (rig()[0] | {"yaw": 5.0}, "mounts CAM_FRONT otherwise than Bench2Drive"),
        (rig()[3] | {"width": 800}, "mounts CAM_BACK otherwise than Bench2Drive"),
    ],
)
def test_sensors_that_a_rehearsal_lacks(sensor, what):
    with pytest.raises(RequestError, match=what):
        draw_toy(0, cameras=False).attach([sensor])


def test_the_route_is_the_scene_s_lane():
    world = draw_toy(toy_of("LaneChange"), cameras=False)
    route = world.route
    assert len(route.positions) == ROUTE_M + 1
    assert {5, 6} <= set(route.options.tolist())  # change lanes to the left, and back
    road, _ = world.scene.route.at(np.arange(ROUTE_M + 1.0))
    sideways = np.linalg.norm(route.positions[:, :2] - road, axis=1)
    assert sideways.max() == pytest.approx(3.5, abs=0.01)
    assert sideways[[0, -1]] == pytest.approx([0.0, 0.0], abs=0.01)


def test_a_picture_from_elsewhere():
    """A car ahead moves to the left in the image by f/z as the camera moves to the right by 1 m."""
    scene = draw_scene("HardBreakRoute", 3, np.random.default_rng(0))
    painter, without = (
        Painter(replace(scene, actors=actors), 0, np.random.default_rng(1))
        for actors in (scene.actors, scene.actors[1:])
    )
    ego, car = scene.ego.pose(0), scene.actors[0]
    beside = ego.copy()
    beside[:3, 3] += ego[:3, 1]
    places = []
    for pose in (None, ego, beside):
        front, empty = (np.asarray(dict(p.paint(0, pose))["CAM_FRONT"]) for p in (painter, without))
        _, which = np.unique(front.reshape(-1, 3), axis=0, return_inverse=True)
        changed = (front != empty).any(axis=-1)
        # The face that is seen whole.
        back = changed & (which.reshape(changed.shape) == np.bincount(which[changed.ravel()]).argmax())
        places.append(np.flatnonzero(back.any(0))[[0, -1]].mean())
    assert places[0] == places[1]
    depth = (np.linalg.inv(ego) @ np.append(car.centre(0), 1.0))[0] - CAMERAS["CAM_FRONT"].location[0]
    focal = 800 / math.tan(math.radians(35))
    assert places[1] - places[2] == pytest.approx(focal / (depth - car.extent[0]), abs=2.0)


def test_the_scene_s_own_pose_is_what_is_painted_without_one():
    scene = draw_scene("LaneChange", 30, np.random.default_rng(4))
    painter = Painter(scene, 3, np.random.default_rng(4))
    for (_, one), (_, other) in zip(painter.paint(29), painter.paint(29, scene.ego.pose(29)), strict=True):
        assert one.tobytes() == other.tobytes()


def test_the_true_plan_is_in_the_lidar_s_frame():
    """Turned to the right on the spot, the way is to the left; the LiDAR is 0.39 m behind."""
    world = draw_toy(toy_of("TJunction"), cameras=False)  # straight on for more than 14 m
    way = world.scene.driver.drive(31, speed=0.0).s[5::5]
    np.testing.assert_allclose(world.true_plan(), np.stack([np.zeros(6), way], axis=1), atol=1e-9)
    world.ego.pose = world.pose._replace(yaw=world.pose.yaw + 90)
    turned = np.stack([0.39 - way, np.full(6, 0.39)], axis=1)
    assert way[2] > 1.0
    np.testing.assert_allclose(world.true_plan(), turned, atol=1e-9)


def test_the_motion_that_metrics_are_made_of():
    world = draw_toy(0, cameras=False)
    world.ego.pose = Pose(1.0, 2.0, 90.0, 4.0)  # along y, with x to its left
    world.ego.acceleration = (3.0, 2.0)
    world.ego.yaw_rate = 0.5
    expected = {
        "acceleration": [-2.0, 3.0, 0.0],
        "angular_velocity": [0.0, 0.0, math.degrees(0.5)],
        "forward_vector": [0.0, 1.0, 0.0],
        "right_vector": [-1.0, 0.0, 0.0],
        "location": [1.0, 2.0, 0.0],
        "rotation": [0.0, 0.0, 90.0],
    }
    told = world.metric_info()
    assert list(told) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(told[name], values, atol=1e-12)

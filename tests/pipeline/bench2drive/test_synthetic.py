"""Synthetic clips: the same on every run, in Bench2Drive's layout, true to their geometry, and varied."""

import gzip
import hashlib
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from cache_schema.errors import RequestError
from cache_schema.format.manifest import DataIdentity
from cache_schema.progress import Progress
from pipeline.bench2drive.annotations import read_annotation
from pipeline.bench2drive.clips import find_clips
from pipeline.bench2drive.geometry import CAMERAS, LIDAR_TOP, pose_matrix
from pipeline.bench2drive.ground_truth.agents import road_users
from pipeline.bench2drive.splits import split_of, validation_clips
from pipeline.bench2drive.synthetic import write_demo_data
from pipeline.bench2drive.synthetic.drawing import Painter
from pipeline.bench2drive.synthetic.manoeuvres import MANOEUVRES
from pipeline.bench2drive.synthetic.recording import Recorder
from pipeline.bench2drive.synthetic.route import LEFT, RIGHT
from pipeline.bench2drive.synthetic.scene import CARS, PAINTS, draw_scene
from pipeline.teachers.orion.images import ImagePreprocessing
from pipeline.teachers.orion.inputs import lidar2img
from tests.recorded_progress import RecordedProgress

TOP_LEVEL = {
    *("x", "y", "throttle", "steer", "brake", "reverse", "theta", "speed", "x_command_far", "y_command_far"),
    *(
        "command_far",
        "x_command_near",
        "y_command_near",
        "command_near",
        "should_brake",
        "x_target",
        "y_target",
    ),
    *(
        "next_command",
        "weather",
        "acceleration",
        "angular_velocity",
        "bounding_boxes",
        "sensors",
        "only_ap_brake",
    ),
}
COMMON = {
    *("class", "id", "type_id", "location", "rotation", "center", "extent", "semantic_tags"),
    *("road_id", "lane_id", "section_id"),
}
BODY = {"bbx_loc", "world_cord"}
TRIGGER = {"trigger_volume_location", "trigger_volume_rotation", "trigger_volume_extent", "affects_ego"}
MOVING = BODY | {"num_points", "speed", "brake", "light_state", "world2vehicle", "state", "distance"}
PARTICULARS = {
    "ego_vehicle": BODY | {"base_type", "color", "speed", "brake", "world2ego"},
    "dynamic": MOVING | {"color", "base_type"},
    "static": MOVING,
    "walker": BODY | {"gender", "age", "num_points", "speed", "bone", "world2ped", "distance"},
    "traffic_light": TRIGGER | {"state", "distance"},
    "traffic.stop": TRIGGER | {"world2sign", "distance"},
    "static.prop.constructioncone": BODY | {"affects_ego", "world2sign", "distance"},
}


def digests(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def record_of(clip, frame):
    return json.loads(gzip.decompress(clip.annotation_path(frame).read_bytes()))


@pytest.fixture(scope="module")
def clips(demo_root):
    return find_clips(demo_root).clips


def test_bit_reproducible_with_any_number_of_workers(tmp_path):
    reported = RecordedProgress()
    first = write_demo_data(tmp_path / "a", clips=2, frames=2, seed=7, progress=reported)
    write_demo_data(tmp_path / "b", clips=2, frames=2, seed=7, workers=2)
    write_demo_data(tmp_path / "c", clips=2, frames=2, seed=8)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert digests(tmp_path / "a") != digests(tmp_path / "c")
    assert sorted(reported.statuses) == [path.name for path in first]


def test_written_once(tmp_path):
    root = tmp_path / "demo"
    paths = write_demo_data(root, clips=1, frames=1)
    (paths[0] / "mine").touch()
    assert write_demo_data(root, clips=1, frames=1) == paths
    assert (paths[0] / "mine").exists()
    with pytest.raises(RequestError, match="is not empty"):
        write_demo_data(root, clips=1, frames=2)


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "precious").write_text("data")
    with pytest.raises(RequestError, match="is not empty"):
        write_demo_data(tmp_path / "real", clips=1, frames=1)
    assert (tmp_path / "real" / "precious").read_text() == "data"
    with pytest.raises(RequestError, match="is not empty"):
        write_demo_data(tmp_path / "real" / "precious", clips=1, frames=1)
    assert (tmp_path / "real" / "precious").read_text() == "data"


def test_an_interrupted_run_leaves_no_root_and_can_be_repeated(tmp_path):
    class Interrupting(Progress):
        def advance(self, amount=1, status=""):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_demo_data(tmp_path / "demo", clips=1, frames=1, progress=Interrupting())
    assert not (tmp_path / "demo").exists()
    write_demo_data(tmp_path / "demo", clips=1, frames=1)
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


@pytest.mark.parametrize("wrong", [{"clips": 0}, {"frames": 0}, {"workers": 0}, {"seed": -1}])
def test_numbers_that_make_no_sense(tmp_path, wrong):
    with pytest.raises(RequestError, match="cannot be written"):
        write_demo_data(tmp_path / "demo", **wrong)


def test_layout(demo_root, clips):
    assert {path.name for path in demo_root.iterdir()} == {"v1", "splits", "data.json"}
    assert DataIdentity.model_validate_json((demo_root / "data.json").read_bytes()).licence == "CC0-1.0"
    assert len(clips) == 8
    for clip in clips:
        assert clip.parts.route >= 9000
        assert clip.frames == (0, 1, 2)
        assert {path.name for path in (clip.path / "camera").iterdir()} == {
            camera.replace("CAM", "rgb").lower() for camera in CAMERAS
        }
    with Image.open(clips[0].image_path("CAM_BACK", 2)) as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (1600, 900), "RGB")
        # Luminance entry of the standard table, 16, at quality 20.
        assert isinstance(image, JpegImageFile)
        assert image.quantization[0][0] == 40


def test_a_quarter_is_for_validation_and_repeats_what_training_shows(demo_root, clips):
    validation = validation_clips(demo_root)
    sides = {
        side: {c.parts.scenario for c in clips if split_of(c.name, validation) == side}
        for side in ("train", "val")
    }
    assert len(validation) == 2
    assert sides["train"] == set(MANOEUVRES)
    assert len(sides["val"]) == 2


def test_every_key_of_the_real_annotations(clips):
    seen = set()
    for clip in clips:
        record = record_of(clip, 0)
        assert set(record) == TOP_LEVEL
        assert len(record["weather"]) == 10
        assert len(record["sensors"]) == 13
        assert set(record["sensors"]["CAM_BACK"]) == {
            *("location", "rotation", "intrinsic", "world2cam", "cam2ego"),
            *("fov", "image_size_x", "image_size_y"),
        }
        assert set(record["sensors"]["RADAR_FRONT"]) == {"location", "rotation", "world2radar", "radar2ego"}
        assert record["bounding_boxes"][0]["class"] == "ego_vehicle"
        for box in record["bounding_boxes"]:
            kind = box["class"]
            if kind in ("vehicle", "traffic_sign"):
                kind = box["state"] if kind == "vehicle" else box["type_id"]
            assert set(box) == COMMON | PARTICULARS[kind], kind
            seen.add(kind)
    assert seen == set(PARTICULARS)


def test_matrices_agree(clips):
    record = record_of(clips[3], 2)
    ego, sensors = record["bounding_boxes"][0], record["sensors"]
    world2ego = np.array(ego["world2ego"])
    np.testing.assert_allclose(
        np.linalg.inv(pose_matrix(ego["location"], ego["rotation"])), world2ego, atol=1e-6
    )
    for sensor, key in (("LIDAR_TOP", "lidar"), ("CAM_BACK_LEFT", "cam"), ("RADAR_FRONT", "radar")):
        there = np.linalg.inv(np.array(sensors[sensor][f"{key}2ego"])) @ world2ego
        np.testing.assert_allclose(sensors[sensor][f"world2{key}"], there, atol=1e-6)
        placed = pose_matrix(sensors[sensor]["location"], sensors[sensor]["rotation"])
        np.testing.assert_allclose(np.linalg.inv(placed), there, atol=1e-5)
    turned = np.degrees(record["theta"]) - ego["rotation"][2] - 90
    # The body's own pitch and roll are small, and the compass knows nothing of them.
    assert (turned + 180) % 360 - 180 == pytest.approx(0, abs=1e-6)
    assert np.linalg.norm(np.array(ego["location"][:2]) - (record["x"], record["y"])) < 1.4 + 2


def test_world_corners(clips):
    for box in record_of(clips[0], 1)["bounding_boxes"]:
        if "world_cord" in box:
            corners = np.array(box["world_cord"])
            np.testing.assert_allclose(corners.mean(0), box["center"], atol=1e-6)
            # From +++ to +-+ is the width, to ++- the height, to -++ the length.
            lengths = np.linalg.norm(corners[[4, 2, 1]] - corners[0], axis=1)
            np.testing.assert_allclose(lengths, 2 * np.array(box["extent"]), atol=1e-6)


def test_our_reader_sees_the_actors_where_they_are_drawn(clips):
    """A car's colour is found where the reader's own matrices project the middle of its box."""
    checked = 0
    for clip in clips:
        if clip.parts.scenario in ("LaneChange", "SignalizedJunctionRightTurn"):
            continue  # the car ahead is behind a parked one
        record = record_of(clip, 1)
        colours = {int(box["id"]): box.get("color") for box in record["bounding_boxes"]}
        annotation = read_annotation(clip.annotation_path(1))
        matrices = lidar2img(annotation.lidar2cam, annotation.intrinsic, ImagePreprocessing())
        boxes = road_users(annotation)
        for number, centre in zip(boxes.id.tolist(), boxes.centre, strict=True):
            if number != 201:
                continue
            for camera, matrix in zip(CAMERAS, matrices, strict=True):
                u, v, depth, _ = matrix @ (*centre, 1)
                u, v = u / max(depth, 1e-6), v / max(depth, 1e-6)
                if depth < 1 or not (0 <= u < 640 and 0 <= v < 640):
                    continue
                with Image.open(clip.image_path(camera, 1)) as image:
                    pixel = np.array(image.getpixel((u / 0.4, (v / 2 + 40) / 0.4)), dtype=float)
                colour = np.array(colours[number].split(","), dtype=float)
                cosine = pixel @ colour / np.linalg.norm(pixel) / np.linalg.norm(colour)
                assert cosine > 0.97, (clip.name, camera, pixel, colour)
                checked += 1
    assert checked >= 6


def test_the_scene_moves_through_the_side_cameras_too():
    rng = np.random.default_rng(3)
    scene = draw_scene("LaneChange", 30, rng)
    painter = Painter(scene, 0, rng)
    first, later = (dict(painter.paint(frame)) for frame in (0, 20))
    for camera in CAMERAS:
        change = np.abs(np.asarray(first[camera], dtype=int) - np.asarray(later[camera], dtype=int))
        assert (change.max(-1) > 20).mean() > 0.02, camera


def ahead_of(painter, x, y, yaw):
    """What the front camera sees of the ground 30 m ahead of a place, in the lane to the left."""
    mount = CAMERAS["CAM_FRONT"]
    depth, aside, height = 30 - mount.location[0], -3.5 - mount.location[1], mount.location[2]
    focal = 800 / math.tan(math.radians(mount.fov / 2))
    image = dict(painter.paint(0, pose_matrix((x, y, 0.0), (0.0, 0.0, math.degrees(yaw)))))["CAM_FRONT"]
    return image.getpixel((int(800 + focal * aside / depth), int(450 + focal * height / depth)))


@pytest.mark.parametrize(
    ("scenario", "other_side"), [("SignalizedJunctionLeftTurn", 1), ("SignalizedJunctionRightTurn", -1)]
)
@pytest.mark.parametrize("seed", range(3))
def test_a_junction_shows_roads_on_all_sides(scenario, other_side, seed):
    """So that the command alone tells which of them the ego takes."""
    scene = draw_scene(scenario, 60, np.random.default_rng(seed))
    road = scene.route
    turn = np.flatnonzero(np.isin(road.option, (LEFT, RIGHT)))
    entry, leave = turn[0], turn[np.flatnonzero(np.diff(turn, append=0) != 1)[0]]
    forward = np.array([np.cos(road.yaw[entry]), np.sin(road.yaw[entry])])
    begin = np.array([road.x[entry], road.y[entry]])
    middle = begin + forward * (((road.x[leave], road.y[leave]) - begin) @ forward)
    painter = Painter(replace(scene, actors=()), 0, np.random.default_rng(0))
    for side in (0, other_side):  # straight on, and where the ego does not go
        seen = np.array(ahead_of(painter, *middle, road.yaw[entry] + side * np.pi / 2))
        haze = math.exp(-np.hypot(30 - CAMERAS["CAM_FRONT"].location[0], 3.5) / 1000)
        asphalt = np.array((85, 85, 90)) * haze + np.array((150, 190, 235)) * (1 - haze)
        np.testing.assert_allclose(seen, asphalt, atol=2)


def test_haze_takes_colours_away_with_distance():
    """At the distance of visibility 1 / e of a surface's own colour is left; the rest is the sky's."""
    scene = draw_scene("HardBreakRoute", 3, np.random.default_rng(0))
    leader = scene.actors[0]
    pixels = {}
    for weather in (0, 18):  # 1000 m and 100 m; light of 1 and 0.9
        for actors in ((leader,), ()):
            painter = Painter(replace(scene, actors=actors), weather, np.random.default_rng(1))
            pixels[weather, len(actors)] = np.asarray(dict(painter.paint(0))["CAM_FRONT"]).astype(float)
    changed = np.argwhere((pixels[0, 1] != pixels[0, 0]).any(axis=-1))
    row, column = np.median(changed, axis=0).astype(int)
    camera = scene.ego.pose(0) @ CAMERAS["CAM_FRONT"].sensor2ego
    away = np.linalg.norm(leader.centre(0) - camera[:3, 3]) - leader.extent[0]
    for weather, sky, light, visibility in ((0, (150, 190, 235), 1.0, 1000), (18, (200, 190, 180), 0.9, 100)):
        back = np.round(np.array(leader.color) * 0.8) * light
        clear = math.exp(-away / visibility)
        expected = back * clear + np.array(sky) * (1 - clear)
        np.testing.assert_allclose(pixels[weather, 1][row, column], expected, atol=3)


def test_traffic_varies():
    scenes = [draw_scene("TJunction", 5, np.random.default_rng(seed)) for seed in range(20)]
    assert len({scene.actors[0].type_id for scene in scenes}) == len(CARS)
    assert len({scene.actors[0].color for scene in scenes}) > len(PAINTS) / 2
    assert {len(scene.actors) for scene in scenes} == {10, 11, 12, 13, 14}
    assert {len({actor.id for actor in scene.actors}) for scene in scenes} == {10, 11, 12, 13, 14}


def drive_of(scenario, seed=0, frames=60):
    return draw_scene(scenario, frames, np.random.default_rng(seed))


@pytest.mark.parametrize("scenario", MANOEUVRES)
@pytest.mark.parametrize("seed", range(3))
def test_the_ego_moves_as_its_speed_and_turn_rate_say(scenario, seed):
    drive = drive_of(scenario, seed).drive
    moved = np.linalg.norm(np.diff(drive.position, axis=0), axis=1) / 0.1
    np.testing.assert_allclose(moved, drive.speed[:-1], atol=0.05)
    np.testing.assert_allclose(np.diff(drive.speed), drive.acceleration[:-1] * 0.1, atol=1e-9)
    assert np.abs(np.gradient(drive.yaw, 0.1) - drive.yaw_rate)[1:-1].max() < 0.15
    forward = np.stack([np.cos(drive.yaw), np.sin(drive.yaw)], axis=1)[:-1]
    step = np.diff(drive.position, axis=0)
    sideways = forward[:, 0] * step[:, 1] - forward[:, 1] * step[:, 0]
    assert np.abs(sideways).max() < 0.06
    assert drive.speed.min() >= 0


@pytest.mark.parametrize("seed", range(3))
def test_what_each_manoeuvre_shows(seed):
    def turned(drive):
        return np.degrees(drive.yaw[-1] - drive.yaw[0])

    for scenario, option, sign in (
        ("SignalizedJunctionLeftTurn", 1, -1),
        ("SignalizedJunctionRightTurn", 2, 1),
    ):
        scene = drive_of(scenario, seed)
        assert sign * turned(scene.drive) > 60
        assert option in Recorder(scene, 0, np.random.default_rng(0)).scene.route.option_at(
            scene.drive.s + 7.5
        )
    waiting = drive_of("VanillaSignalizedTurnEncounterRedLight", seed).drive
    assert waiting.speed[0] == 0
    assert waiting.speed[-1] > 6
    red = drive_of("TJunction", seed).drive
    assert red.speed[0] > 6
    assert red.speed.min() < 0.5
    braking = drive_of("HardBreakRoute", seed)
    assert braking.drive.speed.min() < braking.drive.speed[0] - 4
    leader = next(actor for actor in braking.actors if actor.id == 201)
    assert np.linalg.norm(leader.location[:, :2] - braking.drive.position, axis=1).min() > 5
    lanes = drive_of("LaneChange", seed)
    assert np.interp(lanes.drive.s, lanes.route.s, lanes.route.shift).min() == pytest.approx(-3.5, abs=0.01)


def test_commands_agree_with_what_follows(clips):
    """The route's command turns left before the gyroscope does, and right likewise."""
    for scenario, command in (("SignalizedJunctionLeftTurn", 1), ("SignalizedJunctionRightTurn", 2)):
        rng = np.random.default_rng(1)
        scene = draw_scene(scenario, 50, rng)
        recorder = Recorder(scene, 0, rng)
        records = [recorder.annotation(frame) for frame in range(50)]
        commanded = next(i for i, record in enumerate(records) if record["command_near"] == command)
        turning = next(i for i, record in enumerate(records) if abs(record["angular_velocity"][2]) > 0.1)
        assert commanded < turning
        # The gyroscope's z is positive to the right.
        assert np.sign(records[turning]["angular_velocity"][2]) == (-1 if command == 1 else 1)


@pytest.mark.parametrize("scenario", MANOEUVRES)
def test_constant_velocity_is_a_poor_guess_in_every_manoeuvre(scenario):
    """So that a student has something to learn: already a second ahead, and far more after three."""
    for seconds, least_m in ((1, 0.6), (2, 2.0), (3, 4.0)):
        errors = []
        for seed in range(6):
            drive = drive_of(scenario, seed).drive
            velocity = drive.speed[:, None] * np.stack([np.cos(drive.yaw), np.sin(drive.yaw)], axis=1)
            later = drive.position[10 * seconds :]
            errors.append(
                np.linalg.norm(
                    drive.position[: len(later)] + seconds * velocity[: len(later)] - later, axis=1
                )
            )
        assert np.concatenate(errors).mean() > least_m


@pytest.mark.parametrize("scenario", MANOEUVRES)
def test_the_expert_hits_nobody(scenario):
    for seed in range(6):
        scene = drive_of(scenario, seed)
        yaw = np.radians(scene.ego.rotation[:, 2])
        forward = np.stack([np.cos(yaw), np.sin(yaw)], axis=1)
        for actor in scene.actors:
            if actor.kind in ("vehicle", "parked", "walker"):
                apart = actor.location[:, :2] - scene.ego.location[:, :2]
                ahead = np.abs((apart * forward).sum(axis=1))
                aside = np.abs(apart[:, 1] * forward[:, 0] - apart[:, 0] * forward[:, 1])
                # Half of the ego's size and of the actor's smaller one: nearer is a crash in any heading.
                assert ((ahead > 2.45 + min(actor.extent[:2])) | (aside > 0.92 + min(actor.extent[:2]))).all()


def test_a_weaving_ego_leaves_its_lane_and_knows_the_way_back():
    frames = 60
    scene = draw_scene("HardBreakRoute", frames, np.random.default_rng(3))
    weaving = scene.weaving(np.random.default_rng(4))
    drive, route = weaving.drive, scene.route
    lane, heading = route.at(drive.s, np.interp(drive.s, route.s, route.shift))
    across = np.stack([-np.sin(heading), np.cos(heading)], axis=1)
    beside = ((drive.position - lane) * across).sum(axis=1)
    assert 0.3 < np.abs(beside).max() < 1.6
    assert weaving.actors == scene.actors
    # It looks where it drives.
    steps = np.diff(drive.position, axis=0)
    moving = np.linalg.norm(steps, axis=1) > 0.1
    course = np.arctan2(*steps.T[::-1])
    between = drive.yaw[:-1] + np.diff(drive.yaw) / 2
    assert np.abs(np.angle(np.exp(1j * (course - between))))[moving].max() < 0.02
    # The driver who takes over is in the lane, with the LiDAR 0.39 m behind.
    plan = scene.driven_on(20, s=drive.s[20], speed=drive.speed[20])
    ahead = drive.s[20] + np.linspace(0, 60, 2401)
    line, _ = route.at(ahead, np.interp(ahead, route.s, route.shift))
    apart = np.linalg.norm(plan[:, None] - line, axis=2).min(axis=1)
    assert plan.shape == (6, 2)
    assert apart.max() < 0.05
    assert np.all(np.diff(np.linalg.norm(plan - plan[0], axis=1)) > 0)


def test_the_driver_s_plan_is_what_the_ego_does():
    scene = draw_scene("TJunction", 60, np.random.default_rng(1))
    drive = scene.drive
    plan = scene.driven_on(0, s=drive.s[0], speed=drive.speed[0])
    lidar = [(scene.ego.pose(frame) @ LIDAR_TOP.sensor2ego)[:2, 3] for frame in range(5, 31, 5)]
    # The body pitches by 0.3 degrees for every m/s2 of up to six, and the LiDAR is 1.84 m above the ground.
    np.testing.assert_allclose(plan, lidar, atol=0.06)

"""Clips replayed to an agent: the stored bytes, the clip's own poses, and nothing that the agent changes."""

import json

import numpy as np
import pytest

from cache_schema.errors import ClipError, RequestError
from pipeline.bench2drive.geometry import CAMERAS, lidar2ego, rigid_inverse
from pipeline.bench2drive.geometry import LIDAR_TOP as LIDAR
from pipeline.bench2drive.rehearsal.agent_module import agent_module
from pipeline.bench2drive.rehearsal.leaderboard import drive
from pipeline.bench2drive.rehearsal.replay import replays
from pipeline.bench2drive.source import Bench2Drive
from pipeline.bench2drive.synthetic import write_demo_data
from tests.pipeline.bench2drive.rehearsal.driving import FULL_LEFT, SCRIPTED, scripted

FRAMES = 12


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips") / "data"
    write_demo_data(root, clips=2, frames=FRAMES, seed=3)
    return root


@pytest.fixture(scope="module")
def replayed(data):
    world = replays(data)[9001]()
    with agent_module(SCRIPTED) as module:
        done = drive(module, scripted(FULL_LEFT, answers=True), world)
        return done, module.DATA


def test_the_stored_bytes_at_the_stored_poses(data, replayed):
    _, received = replayed
    clip = Bench2Drive(data).select("all").clips[0]
    opened = clip.open()
    assert len(received) == FRAMES
    for index, sent in enumerate(received):
        frame, observation = sent["REPLAY"]
        sample = opened.sample(index)
        assert frame == index
        assert list(observation["jpegs"]) == list(CAMERAS)
        for camera, path in sample.images.items():
            assert observation["jpegs"][camera] == path.read_bytes()
        for name in ("lidar2cam", "intrinsic", "ego_pose", "ego_pose_inv", "can_bus"):
            np.testing.assert_array_equal(observation[name], getattr(sample, name))
        assert (observation["timestamp_s"], observation["command"]) == (sample.timestamp_s, sample.command)
        assert sent["SPEED"] == (index, {"speed": sample.can_bus[7]})


def test_the_ego_goes_as_recorded_whatever_the_agent_does(data, replayed):
    done, received = replayed
    annotations = sorted((data / "v1").iterdir())[0] / "anno"
    assert len(list(annotations.iterdir())) == FRAMES
    opened = Bench2Drive(data).select("all").clips[0].open()
    ego2world = opened.annotations.ego_pose @ rigid_inverse(lidar2ego(LIDAR.sensor2ego))
    np.testing.assert_allclose(done.poses[:, :2], ego2world[:, :2, 3] * (1, -1), atol=1e-9)
    assert (done.controls == FULL_LEFT).all()
    imu = np.array([sent["IMU"][1] for sent in received])
    compass = np.radians(done.poses[:, 2]) + np.pi / 2
    np.testing.assert_allclose(np.sin(imu[:, 6] - compass), 0, atol=1e-6)
    assert (np.cos(imu[:, 6] - compass) > 0).all()


def test_the_record_is_no_score_and_keeps_the_plans(replayed):
    done, _ = replayed
    assert done.record["status"] == "Perfect"
    assert done.record["scores"]["score_composed"] == 100.0
    assert done.record["route_id"] == "RouteScenario_9001_rep0"
    expected = [[[0.05 * tick, step] for step in range(6)] for tick in range(FRAMES)]
    np.testing.assert_allclose(done.plans, expected, atol=1e-12)


def test_the_route_is_the_way_that_was_driven(data):
    world = replays(data)[9001]()
    positions = world.route.positions[:, :2]
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    assert steps == pytest.approx(np.ones(len(steps)), abs=0.02)
    assert positions[0] == pytest.approx(world.pose[:2])
    assert len(world.route.options) == len(world.route.yaw) == len(positions)


def test_clips_that_cannot_be_told_apart_or_read(data, tmp_path):
    for path in (data / "v1").iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "HardBreakRoute_Town05_Route9001_Weather0").symlink_to(sorted((data / "v1").iterdir())[1])
    with pytest.raises(RequestError, match="are of the same route"):
        replays(tmp_path)
    (tmp_path / "HardBreakRoute_Town05_Route9007_Weather0").mkdir()
    with pytest.raises(ClipError, match=r"has no anno/"):
        replays(tmp_path)


def test_a_missing_image_is_no_fault_of_the_agent(tmp_path):
    write_demo_data(tmp_path / "data", clips=1, frames=3)
    world = replays(tmp_path / "data")[9001]()
    (image,) = (tmp_path / "data").rglob("rgb_back/00001.jpg")
    image.unlink()
    with (
        pytest.raises(ClipError, match=r"cannot be replayed: .*rgb_back/00001\.jpg"),
        agent_module(SCRIPTED) as module,
    ):
        drive(module, scripted(), world)


def test_a_clip_that_stands_has_a_route_all_the_same(frame_record, write_clip):
    clip = write_clip([frame_record(speed=0.0) for _ in range(4)])
    (world,) = [opened() for opened in replays(clip.path.parent).values()]
    assert len(world.route.positions) == 2
    step = world.route.positions[1] - world.route.positions[0]
    assert step == pytest.approx([np.cos(np.radians(30)), np.sin(np.radians(30)), 0], abs=1e-9)
    json.dumps(world.metric_info())


def test_the_motion_of_a_clip(frame_record, write_clip):
    """Heading 30 degrees, 0.5 m/s2 ahead and 0.2 m/s2 to the right, 0.3 rad/s clockwise, as annotated."""
    clip = write_clip([frame_record(speed=0.0) for _ in range(2)])
    (world,) = [opened() for opened in replays(clip.path.parent).values()]
    told = world.metric_info()
    cos, sin = np.cos(np.radians(30)), np.sin(np.radians(30))
    np.testing.assert_allclose(told["acceleration"], [0.5 * cos - 0.2 * sin, 0.5 * sin + 0.2 * cos, 0])
    np.testing.assert_allclose(told["angular_velocity"], [0, 0, np.degrees(0.3)])
    np.testing.assert_allclose([*told["location"], told["rotation"][2]], [100, 50, 0, 30], atol=1e-9)

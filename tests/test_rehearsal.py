"""The agent file in the leaderboard without CARLA, over a socket to the policy server, and back."""

import json
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

import student.serving
from pipeline.bench2drive.rehearsal.leaderboard import drive_route
from pipeline.bench2drive.rehearsal.replay import replays
from pipeline.bench2drive.rehearsal.toy import ToyWorld
from pipeline.bench2drive.rehearsal.toys import draw_toy
from pipeline.bench2drive.source import Bench2Drive
from pipeline.bench2drive.synthetic import write_demo_data
from student.closed_loop.controller import AgentController
from student.serving.address import Address
from student.serving.policy import ConstantVelocity
from student.serving.server import serving

AGENT_FILE = Path(student.serving.__file__).with_name("bench2drive_agent.py")
ANY_PORT = Address.parse("tcp://127.0.0.1:0")


class Noting:
    """Plans what it is told to, and keeps what it was shown."""

    slots = 1
    identity = {"student": "none"}  # noqa: RUF012

    def __init__(self, plan):
        self.plan = plan
        self.seen = []
        self.seconds = {}

    def prepare(self, observation):
        return observation

    def begin(self):
        return None

    def step(self, inputs, state):
        self.seen += inputs
        return self.plan()[None], state


def drive(address, world):
    return drive_route(AGENT_FILE, str(address), world)


def shortened(world, ticks):
    class Shortened(type(world)):
        @property
        def over(self):
            return self.tick >= ticks

        @over.setter
        def over(self, value):
            pass

    world.__class__ = Shortened
    return world


def test_the_true_plan_scores_100_through_agent_file_and_server(tmp_path, monkeypatch):
    monkeypatch.setenv("SAVE_PATH", str(tmp_path))
    world = draw_toy(2, cameras=False)
    policy = Noting(world.true_plan)
    with serving(policy, ANY_PORT, mode="corrected", every=4) as address:
        done = drive(address, world)
    assert done.record["scores"]["score_composed"] == 100.0
    assert len(done.poses) == len(done.plans) == len(done.controls)
    assert len(policy.seen) == (len(done.poses) + 3) // 4
    controller = AgentController()
    for plan, pose, control in zip(done.plans, done.poses, done.controls, strict=True):
        expected = controller.step(plan, pose[3])
        assert tuple(control) == (expected.throttle, expected.steer, expected.brake)
    (file,) = tmp_path.rglob("metric_info.json")
    assert file.parent.name == done.record["save_name"]
    told = json.loads(file.read_text())
    assert list(told) == [str(tick) for tick in range(len(done.poses))]
    np.testing.assert_allclose([info["location"][:2] for info in told.values()], done.poses[:, :2])


@pytest.mark.parametrize("index", [0, 3], ids=["Town03", "Town12"])
@pytest.mark.parametrize("mode", ["parity", "corrected"])
def test_the_server_knows_where_the_ego_is(mode, index):
    """In parity, x is shifted: on the equator, it counts from the first node; elsewhere, it is far off."""
    ticks, mount = 20, -0.39
    world = shortened(draw_toy(index, cameras=False), ticks)
    policy = Noting(world.true_plan)
    with serving(policy, ANY_PORT, mode=mode) as address:
        done = drive(address, world)
    assert done.record["status"] == "Failed"  # it was cut short
    assert len(policy.seen) == ticks
    x, y, yaw, speed = done.poses.T
    poses = np.array([observation.ego_pose for observation in policy.seen])
    heading = np.degrees(np.arctan2(poses[:, 1, 0], poses[:, 0, 0])) + 90  # of the LiDAR's y
    np.testing.assert_allclose(np.cos(np.radians(heading + yaw)), 1, atol=1e-9)
    back = mount if mode == "corrected" else mount - 1.4  # the antenna's place
    cos, sin = np.cos(np.radians(yaw)), np.sin(np.radians(yaw))
    true = np.stack([x + back * cos, -(y + back * sin)], axis=1)
    apart = poses[:, :2, 3] - true
    if mode == "corrected":  # poses count from the first tick
        apart -= apart[0]
    elif index == 0:
        apart[:, 0] += world.route.positions[0, 0]
    else:
        assert abs(apart[:, 0].mean()) > 1000
        apart[:, 0] -= apart[:, 0].mean()
    # GNSS is 0.56 m wrong on each axis; of n ticks, the mean is by a factor of sqrt(n) less.
    sigma = 5e-6 * np.pi / 180 * 6378137
    assert np.abs(apart).max() < 5 * sigma
    if mode == "parity":
        assert np.abs(apart.mean(0)).max() < 5 * sigma / np.sqrt(ticks)
        assert 0.6 * sigma < apart.std(0).mean() < 1.4 * sigma
    np.testing.assert_array_equal([observation.can_bus[7] for observation in policy.seen], speed)
    assert list(policy.seen[0].jpegs) == ["CAM_FRONT", "CAM_FRONT_LEFT", "CAM_FRONT_RIGHT", "CAM_BACK",
                                          "CAM_BACK_LEFT", "CAM_BACK_RIGHT"]  # fmt: skip


def test_a_clip_arrives_to_the_bit(tmp_path):
    write_demo_data(tmp_path / "data", clips=1, frames=6)
    world = replays(tmp_path / "data")[9001]()
    rng = np.random.default_rng(0)
    plans = rng.normal(0, 5, (6, 6, 2))
    waiting = iter(plans)
    policy = Noting(lambda: next(waiting))
    with serving(policy, ANY_PORT, mode="parity", allow_replay=True) as address:
        done = drive(address, world)
    np.testing.assert_array_equal(done.plans, plans)
    clip = Bench2Drive(tmp_path / "data").select("all").clips[0].open()
    assert len(policy.seen) == 6
    for index, observation in enumerate(policy.seen):
        sample = clip.sample(index)
        for camera, path in sample.images.items():
            assert observation.jpegs[camera] == path.read_bytes()
        for name in (
            "lidar2cam",
            "intrinsic",
            "ego_pose",
            "ego_pose_inv",
            "can_bus",
            "timestamp_s",
            "command",
        ):
            np.testing.assert_array_equal(getattr(observation, name), getattr(sample, name))
        assert (observation.timestamp_s, observation.command) == (sample.timestamp_s, sample.command)


def test_a_server_that_forgot_the_route_crashes_the_agent(tmp_path):
    address = Address(path=str(tmp_path / "socket"))
    servers = ExitStack()

    class Restarting(ToyWorld):
        def apply(self, control):
            super().apply(control)
            if self.tick == 5:
                servers.close()
                servers.enter_context(serving(ConstantVelocity(), address, mode="parity"))

    world = draw_toy(0, cameras=False)
    world.__class__ = Restarting
    with servers:
        servers.enter_context(serving(ConstantVelocity(), address, mode="parity"))
        done = drive(address, world)
        assert done.record["status"] == "Failed - Agent crashed"
        assert len(done.controls) == 5
        # The next route is driven by the new server.
        done = drive(address, shortened(draw_toy(1, cameras=False), 3))
    assert len(done.controls) == 3

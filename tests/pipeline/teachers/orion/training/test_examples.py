"""The windows that a teacher learns from, against the files that the same clips are written to."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.bench2drive.source import Bench2Drive
from pipeline.bench2drive.synthetic import write_demo_data
from pipeline.bench2drive.synthetic.manoeuvres import MANOEUVRES
from pipeline.bench2drive.synthetic.route import Piece, Route
from pipeline.bench2drive.synthetic.scene import draw_scene
from pipeline.teachers.orion.inputs import prepare
from pipeline.teachers.orion.presets import ORION_TINY_RANDOM as TINY
from pipeline.teachers.orion.training import examples
from pipeline.teachers.orion.training.cache import windows_of
from pipeline.teachers.orion.training.examples import (
    PLANNED_FRAMES,
    ClipPlan,
    draw,
    held_out_plan,
    training_plan,
)
from pipeline.teachers.orion.training.lanes import CENTRE, lanes_at

FRAMES, SEED = 12, 5  # a step of the future is known of frame 6


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("written") / "data"
    write_demo_data(root, clips=1, frames=FRAMES, seed=SEED)
    (clip,) = Bench2Drive(root).select().clips
    return clip.open()


@pytest.fixture(scope="module")
def windows():
    return draw(ClipPlan(seed=SEED, index=0, starts=(0, 5), length=2, frames=FRAMES), TINY.images)


def test_a_window_shows_what_the_files_of_the_same_clip_show(written, windows):
    for window, start in enumerate((0, 5)):
        for frame in range(2):
            row = prepare(written.sample(start + frame), TINY.images)
            assert np.array_equal(windows["images"][window, frame], row.images.numpy())
            for name in ("lidar2img", "ego_pose", "ego_pose_inv", "timestamp_s", "command", "can_bus"):
                assert np.array_equal(windows[name][window, frame], getattr(row, name)), name


def test_the_truth_is_that_of_the_files(written, windows):
    truth = written.ground_truth()
    assert np.array_equal(windows["trajectory"][1, 1], truth["ego_trajectory"][6])
    assert np.array_equal(windows["trajectory_mask"][1, 1], truth["ego_trajectory_mask"][6])
    # Vehicles and people are the agents of the metrics; lights, signs and cones come on top.
    labels = windows["labels"][1, 1]
    users = np.isin(labels, truth["truth_agent_classes"][6][truth["truth_agent_classes"][6] >= 0])
    counted = int(truth["truth_agent_count"][6])
    assert users.sum() == counted
    order = np.argsort(np.hypot(*windows["boxes"][1, 1][users, :2].T), kind="stable")
    boxes = windows["boxes"][1, 1][users][order]
    x, y, length, width, yaw = truth["truth_agent_boxes"][6][:counted].T
    expected = [x, y, np.log(width), np.log(length), np.sin(yaw), np.cos(yaw)]
    np.testing.assert_allclose(boxes[:, [0, 1, 2, 3, 6, 7]], np.stack(expected, axis=1), atol=1e-5)
    first_step = truth["truth_agent_offsets"][6][:counted, 0, :2]
    np.testing.assert_allclose(boxes[:, 8:], first_step / 0.5, atol=1e-4)


def test_lanes_of_a_straight_road_lie_beside_the_ego():
    route = Route([Piece(60.0)], start=(10.0, -20.0), yaw=0.0)
    ego = np.eye(4)
    ego[:2, 3] = 10.0, -20.0
    found = lanes_at(route, 0.0, ego)
    across, along, up = np.moveaxis(found["lanes"], -1, 0)
    # Lines and lanes of three lanes of 3.5 m, of which the ego drives in the right one.
    np.testing.assert_allclose(across[:, 0], [-8.75, -5.25, -1.75, 1.75, -7.0, -3.5, 0.0], atol=1e-5)
    # From 10 m behind the ego's origin, 0.39 m ahead of the LiDAR, to 40 m ahead, and 1.84 m below.
    np.testing.assert_allclose(along, np.tile(np.arange(-10, 41, 5) + 0.39, (7, 1)), atol=0.26)
    np.testing.assert_allclose(up, -1.84, atol=1e-5)
    assert found["lane_labels"].tolist()[-3:] == [CENTRE] * 3


def test_lanes_turn_with_the_ego():
    route = Route([Piece(60.0)], start=(0.0, 0.0), yaw=math.pi / 2)
    ego = np.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    np.testing.assert_allclose(lanes_at(route, 0.0, ego)["lanes"][3, :, 0], 1.75, atol=1e-5)


def test_windows_begin_with_the_clip_and_stay_where_the_trajectory_is_whole():
    plans = [training_plan(1, clip, windows=3, length=4) for clip in range(50)]
    assert all(plan.starts[0] == 0 and plan.starts[-1] + 4 <= PLANNED_FRAMES for plan in plans)
    assert len({plan.starts for plan in plans}) > 10
    assert held_out_plan(2, 0).starts == (0,)


def test_a_clip_is_drawn_once(tmp_path):
    plans = [ClipPlan(SEED, 1, (0,), 1, frames=2), ClipPlan(SEED, 0, (1,), 1, frames=2)]
    first = windows_of(plans, TINY.images, tmp_path)
    times = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    again = windows_of(plans[::-1], TINY.images, tmp_path)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == times
    assert first["can_bus"].shape == (2, 1, 18)
    assert torch.equal(again["images"], first["images"].flip(0))


@pytest.fixture
def turning():
    """Plan of a clip in which the ego turns left, and its scene as it is drawn."""
    rng = np.random.default_rng((SEED, 0))
    return ClipPlan(SEED, 0, (0, 12), 1, frames=48), draw_scene(next(iter(MANOEUVRES)), 48, rng), rng


def test_where_the_ego_keeps_its_lane_the_way_back_is_the_way(turning):
    plan, scene, _ = turning
    expert = draw(plan, TINY.images)
    for window, frame in enumerate(plan.starts):
        back = examples._way_back(scene, frame)["trajectory"].cumsum(axis=0)
        # The driver who takes over does so with an acceleration of 0.
        np.testing.assert_allclose(back, expert["trajectory"][window, 0].cumsum(axis=0), atol=0.25)
        assert np.abs(back).max() > 5


def test_of_a_weaving_ego_the_trajectory_leads_back_into_its_lane(turning):
    plan, scene, rng = turning
    scene = scene.weaving(rng)
    windows = draw(replace(plan, weaves=True), TINY.images)
    route, s = scene.route, scene.drive.s
    aside = []
    for window, frame in enumerate(plan.starts):
        lane, yaw = route.at(s[frame], np.interp(s[frame], route.s, route.shift))
        right = np.array([-np.sin(yaw), np.cos(yaw)])
        aside.append((scene.drive.position[frame] - lane) @ right)
        trajectory = windows["trajectory"][window, 0]
        assert np.array_equal(trajectory, examples._way_back(scene, frame)["trajectory"])
        heading = scene.drive.yaw[frame] - yaw
        # In the lane's directions: how far to the right of where it is the first step ends.
        moved = trajectory[0] @ (np.cos(heading), np.sin(heading))
        assert moved == pytest.approx(-aside[-1], abs=0.1 + 0.1 * float(np.linalg.norm(trajectory[0])))
        assert windows["trajectory_mask"][window, 0].all()
    assert max(np.abs(aside)) > 0.3

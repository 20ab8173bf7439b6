"""Golden vector G3: a circle driven at 5 m/s, turning right by 10 degrees a second."""

import numpy as np
import pytest

from pipeline.bench2drive.geometry import LIDAR_TOP, pose_matrix, world2lidar
from pipeline.bench2drive.ground_truth.trajectories import ego_trajectories, relative_positions


@pytest.fixture(scope="module")
def circle():
    x = y = yaw = 0.0
    poses = []
    for _ in range(60):
        raw = np.linalg.inv(pose_matrix((x, y, 0), (0, 0, yaw)) @ LIDAR_TOP.sensor2ego)
        poses.append(np.linalg.inv(world2lidar(raw)))
        x, y, yaw = x + 0.5 * np.cos(np.radians(yaw)), y + 0.5 * np.sin(np.radians(yaw)), yaw + 1
    return np.stack(poses)


FUTURE_12 = [
    (0.053231, 2.4992),
    (0.270849, 2.48505),
    (0.486404, 2.451988),
    (0.698258, 2.400265),
    (0.904798, 2.330274),
    (1.104452, 2.242548),
]


def test_offsets_of_the_circle(circle):
    offsets, mask = ego_trajectories(circle)
    np.testing.assert_allclose(offsets[12], FUTURE_12, atol=1e-5)
    assert mask[12].all()
    assert (offsets.shape, offsets.dtype, mask.dtype) == ((60, 6, 2), np.float32, np.bool_)


def test_history_of_the_circle(circle):
    positions, inside = relative_positions(circle, (-2, -1, 0))
    history = [(-0.381559, 2.470475), (-0.164791, 2.494329)]
    np.testing.assert_allclose(np.diff(positions[12], axis=0), history, atol=1e-5)
    assert inside[12].all()
    assert not inside[9, 0]


def test_only_the_end_is_masked(circle):
    offsets, mask = ego_trajectories(circle)
    assert mask[:30].all()
    assert mask[30].tolist() == [True] * 5 + [False]
    assert not mask[55:].any()
    assert not offsets[~mask].any()
    np.testing.assert_allclose(offsets[0], offsets[12], atol=1e-5)


def test_a_clip_of_forty_frames_has_ten_whole_trajectories(circle):
    assert ego_trajectories(circle[:40])[1].all(1).sum() == 10


def test_a_clip_of_one_frame(circle):
    offsets, mask = ego_trajectories(circle[:1])
    assert offsets.shape == (1, 6, 2)
    assert not mask.any()

"""Golden vectors G1 and the rig table of spec Bench2Drive, sections 1.3 and 8.3."""

import numpy as np
import pytest

from pipeline.bench2drive.geometry import (
    CAMERAS,
    LIDAR_TOP,
    A,
    S,
    cam2ego,
    lidar2ego,
    pinhole,
    pose_matrix,
    rigid_inverse,
    transform,
    world2lidar,
)

EGO = pose_matrix((100, 50, 0), (0, 0, 30))

LIDAR2CAM = {
    "CAM_FRONT": [(1, 0, 0, 0), (0, 0, -1, -0.24), (0, 1, 0, -1.19)],
    "CAM_FRONT_LEFT": [
        (0.57357644, 0.81915204, 0, -0.22517331),
        (0, 0, -1, -0.24),
        (-0.81915204, 0.57357644, 0, -0.82909407),
    ],
    "CAM_FRONT_RIGHT": [
        (0.57357644, -0.81915204, 0, 0.22517331),
        (0, 0, -1, -0.24),
        (0.81915204, 0.57357644, 0, -0.82909407),
    ],
    "CAM_BACK": [(-1, 0, 0, 0), (0, 0, -1, -0.24), (0, -1, 0, -1.61)],
    "CAM_BACK_LEFT": [
        (-0.34202014, 0.93969262, 0, -0.25388956),
        (0, 0, -1, -0.24),
        (-0.93969262, -0.34202014, 0, -0.49288953),
    ],
    "CAM_BACK_RIGHT": [
        (-0.34202014, -0.93969262, 0, 0.25388956),
        (0, 0, -1, -0.24),
        (0.93969262, -0.34202014, 0, -0.49288953),
    ],
}


def rows(matrix: np.ndarray) -> np.ndarray:
    return matrix[:3]


@pytest.mark.parametrize("camera", LIDAR2CAM)
def test_lidar_to_camera_constants(camera):
    lidar2cam = rigid_inverse(cam2ego(CAMERAS[camera].sensor2ego)) @ lidar2ego(LIDAR_TOP.sensor2ego)
    np.testing.assert_allclose(rows(lidar2cam), LIDAR2CAM[camera], atol=1e-8)


def test_cameras_stand_in_the_order_of_every_array():
    assert list(CAMERAS) == list(LIDAR2CAM)


def test_lidar_to_ego_constant():
    expected = [(0, 1, 0, -0.39), (-1, 0, 0, 0), (0, 0, 1, 1.84)]
    np.testing.assert_allclose(rows(lidar2ego(LIDAR_TOP.sensor2ego)), expected, atol=1e-12)


def test_focal_lengths():
    assert pinhole(70)[0, 0] == pytest.approx(1142.5184, abs=1e-4)
    assert pinhole(110)[1, 1] == pytest.approx(560.1660, abs=1e-4)
    assert pinhole(70)[:2, 2].tolist() == [800, 450]


def test_world_to_ego_and_lidar():
    world2ego = [(0.866025, 0.5, 0, -111.60254), (-0.5, 0.866025, 0, 6.69873), (0, 0, 1, 0)]
    np.testing.assert_allclose(rows(np.linalg.inv(EGO)), world2ego, atol=1e-5)
    raw = np.linalg.inv(EGO @ LIDAR_TOP.sensor2ego)
    np.testing.assert_allclose(raw[:3, 3], (-111.21254, 6.69873, -1.84), atol=1e-5)
    converted = world2lidar(raw)
    expected = [(-0.5, -0.866025, 0, 6.69873), (0.866025, -0.5, 0, -111.21254), (0, 0, 1, -1.84)]
    np.testing.assert_allclose(rows(converted), expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.inv(converted)[:3, 3], (99.66225, -49.805, 1.84), atol=1e-5)


def test_right_handed_world_to_ego():
    expected = [(0.866025, -0.5, 0, -111.60254), (0.5, 0.866025, 0, -6.69873), (0, 0, 1, 0)]
    np.testing.assert_allclose(rows(S @ np.linalg.inv(EGO) @ S), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("camera", "location", "world2cam", "to_ego"),
    [
        (
            "CAM_FRONT",
            (100.69282, 50.4, 1.6),
            [(0.866025, 0.5, 0, -112.40254), (-0.5, 0.866025, 0, 6.69873), (0, 0, 1, -1.6)],
            [(0, 0, 1, 0.8), (-1, 0, 0, 0), (0, -1, 0, 1.6)],
        ),
        (
            "CAM_BACK_LEFT",
            (99.997872, 49.363686, 1.6),
            [
                (0.173648, -0.984808, 0, 31.249292),
                (0.984808, 0.173648, 0, -107.050594),
                (0, 0, 1, -1.6),
            ],
            [(0.939693, 0, -0.34202, -0.32), (0.34202, 0, 0.939693, 0.55), (0, -1, 0, 1.6)],
        ),
    ],
)
def test_camera_poses(camera, location, world2cam, to_ego):
    pose = EGO @ CAMERAS[camera].sensor2ego
    np.testing.assert_allclose(pose[:3, 3], location, atol=1e-6)
    np.testing.assert_allclose(rows(np.linalg.inv(pose)), world2cam, atol=1e-5)
    np.testing.assert_allclose(rows(cam2ego(CAMERAS[camera].sensor2ego)), to_ego, atol=1e-6)


def test_map_point_in_lidar_frame():
    matrix = world2lidar(np.linalg.inv(EGO @ LIDAR_TOP.sensor2ego))
    point = transform(matrix, np.array([105.0, -52.0, 0.0]))
    np.testing.assert_allclose(point, (-0.767949, 5.720127, -1.84), atol=1e-6)


def test_pose_matrix_with_pitch_and_roll():
    # Nose up by 90 degrees: forward becomes up, up becomes backward. Roll by 90 degrees: right becomes down.
    pitched = pose_matrix((1, 2, 3), (90, 0, 0))
    np.testing.assert_allclose(pitched[:3, 0], (0, 0, 1), atol=1e-12)
    np.testing.assert_allclose(pitched[:3, 2], (-1, 0, 0), atol=1e-12)
    np.testing.assert_allclose(pose_matrix((0, 0, 0), (0, 90, 0))[:3, 1], (0, 0, -1), atol=1e-12)


def test_rigid_inverse_of_a_stack():
    poses = np.stack([pose_matrix((1, 2, 3), (4, 5, 6)), pose_matrix((-7, 8, 9), (10, -11, 120))])
    np.testing.assert_allclose(
        rigid_inverse(poses) @ poses, np.broadcast_to(np.eye(4), (2, 4, 4)), atol=1e-12
    )


def test_optical_axes():
    # UE camera: x forward, y right, z up. Optical: x right, y down, z forward.
    np.testing.assert_array_equal(A.T @ (10, 2, 3, 1), (2, -3, 10, 1))

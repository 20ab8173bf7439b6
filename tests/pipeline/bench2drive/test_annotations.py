"""One frame: golden vector G1, NaN and null, and files that are not whole."""

import gzip
import json
import math

import numpy as np
import pytest

from cache_schema.errors import ClipError
from pipeline.bench2drive.annotations import read_annotation
from pipeline.bench2drive.geometry import CAMERAS, A
from tests.paths import ROOT

SAMPLE = ROOT / "../shared/samples/bench2drive_real_anno_Accident_Town03_Route24816_Weather25_00093.json"


@pytest.fixture
def read(tmp_path):
    def write_and_read(record):
        path = tmp_path / "00000.json.gz"
        path.write_bytes(gzip.compress(json.dumps(record).encode()))
        return read_annotation(path)

    return write_and_read


def test_golden_frame(read, frame_record):
    annotation = read(frame_record())
    assert annotation.ego_yaw == pytest.approx(-0.5235988)
    can_bus = [
        *(100, -50, 0),
        *(0.9659258, 0, 0, -0.2588190),
        *(7.5, 0, 0),
        *(0.5, -0.2, 9.8),
        *(-0.01, 0.02, -0.3),
        *(5.7595865, 330),
    ]
    np.testing.assert_allclose(annotation.can_bus, can_bus, atol=1e-7)
    assert annotation.command == 3
    expected = [(-0.5, -0.866025, 0, 6.69873), (0.866025, -0.5, 0, -111.21254), (0, 0, 1, -1.84)]
    np.testing.assert_allclose(annotation.world2lidar[:3], expected, atol=1e-5)
    np.testing.assert_allclose(annotation.lidar2cam[3][2], (0, -1, 0, -1.61), atol=1e-12)
    np.testing.assert_allclose(annotation.intrinsic[:, 0, 0], [1142.5184] * 3 + [560.1660] + [1142.5184] * 2)


@pytest.mark.parametrize(("option", "index"), [(-1, 3), (1, 0), (2, 1), (3, 2), (4, 3), (5, 4), (6, 5)])
def test_commands(read, frame_record, option, index):
    assert read(frame_record(command_near=option)).command == index


@pytest.mark.parametrize("option", [0, 7, 2.5])
def test_a_command_that_does_not_exist(read, frame_record, option):
    with pytest.raises(ClipError, match="'command_near'"):
        read(frame_record(command_near=option))


def test_theta_nan_counts_as_pi(read, frame_record):
    annotation = read(frame_record(theta=math.nan))
    assert annotation.ego_yaw == pytest.approx(-math.pi / 2)
    assert annotation.can_bus[16:].tolist() == pytest.approx([1.5 * math.pi, 270])


def test_null_theta_and_speed_count_as_zero(read, frame_record):
    annotation = read(frame_record(theta=None, speed=None))
    assert annotation.can_bus[[7, 16, 17]].tolist() == pytest.approx([0, math.pi / 2, 90])
    assert read(frame_record(speed=math.nan)).can_bus[7] == 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"acceleration": [0.0, math.nan, 9.8]}, "'acceleration'"),
        ({"angular_velocity": [0.0, 0.0]}, "'angular_velocity'"),
        ({"x": "far"}, "'x'"),
        ({"theta": math.inf}, "'theta'"),
        ({"theta": 10**400}, "'theta'"),
        ({"sensors": {}}, "'sensors.CAM_FRONT'"),
        ({"bounding_boxes": None}, "'bounding_boxes'"),
    ],
)
def test_a_broken_value_is_named(read, frame_record, change, named):
    with pytest.raises(ClipError, match=named) as caught:
        read(frame_record(**change))
    assert "00000.json.gz" in str(caught.value)


def test_a_broken_matrix_is_named_with_its_sensor(read, frame_record):
    record = frame_record()
    record["sensors"]["CAM_BACK"]["cam2ego"] = [[1.0]]
    with pytest.raises(ClipError, match=r"'sensors\.CAM_BACK\.cam2ego'"):
        read(record)


@pytest.mark.parametrize("matrix", [np.zeros((4, 4)), np.ones((4, 4)), np.diag([1, 1, 1, 0]), 2 * np.eye(4)])
def test_a_matrix_that_is_no_pose_is_named(read, frame_record, matrix):
    record = frame_record()
    record["sensors"]["LIDAR_TOP"]["world2lidar"] = matrix.tolist()
    with pytest.raises(ClipError, match=r"'sensors\.LIDAR_TOP\.world2lidar'.*"):
        read(record)


def test_a_missing_key_is_named(read, frame_record):
    record = frame_record()
    del record["speed"]
    with pytest.raises(ClipError, match="has no 'speed'"):
        read(record)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("00000.json.gz", b"not gzip", "cannot be read"),
        ("00000.json.gz", gzip.compress(b'{"x": 1}' * 99, mtime=0)[:-30], "cannot be read"),
        ("00000.json.gz", gzip.compress(b'{"x": 1', mtime=0), "is not JSON"),
        ("00000.json", b"\xff\xfe\xff", "is not JSON"),
        ("00000.json", b"[1, 2]", "holds a JSON list"),
        ("00000.json", b"[" * 100_000, "is not JSON"),
    ],
)
def test_a_file_that_is_not_whole(tmp_path, name, content, complaint):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ClipError, match=complaint) as caught:
        read_annotation(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ClipError, match="does not exist"):
        read_annotation(tmp_path / "00000.json.gz")


def test_another_size_of_images_than_stated(read, frame_record):
    record = frame_record()
    record["sensors"]["CAM_BACK"] |= {"image_size_x": 800, "image_size_y": 450}
    with pytest.raises(ClipError, match=r"sensors\.CAM_BACK\.image_size_x = 800"):
        read(record)
    record["sensors"]["CAM_BACK"] |= {"image_size_x": 1600, "image_size_y": 900}
    read(record)


@pytest.mark.skipif(not SAMPLE.is_file(), reason="the real frame may not be shared, and is not at hand")
def test_a_real_frame():
    annotation = read_annotation(SAMPLE)
    ego = annotation.boxes[0]
    _, _, yaw = ego.array("rotation", 3)
    assert math.degrees(-annotation.ego_yaw) == pytest.approx(yaw, abs=1e-3)
    assert annotation.command == 3
    # The right-handed lidar origin is the raw one with y negated.
    origin = np.linalg.inv(annotation.world2lidar)[:3, 3]
    np.testing.assert_allclose(origin, (94.67167663574219, -193.74903869628906, 3.017810583114624), atol=1e-3)
    # world2cam = inverse(cam2ego) world2ego, of which the reader uses the left side only through the LiDAR.
    raw = json.loads(SAMPLE.read_text())["sensors"]
    flip = np.diag([1.0, -1, 1, 1])
    assert list(raw)[:6] == list(CAMERAS)
    for name, lidar2cam in zip(CAMERAS, annotation.lidar2cam, strict=True):
        expected = A.T @ np.array(raw[name]["world2cam"]) @ flip
        np.testing.assert_allclose(lidar2cam @ annotation.world2lidar, expected, atol=2e-4, err_msg=name)

"""Golden vector G2: a vehicle, a walker and a light before the ego of G1; filters, futures and visibility."""

import math

import numpy as np
import pytest

from cache_schema.errors import ClipError
from pipeline.bench2drive.annotations import read_annotation
from pipeline.bench2drive.geometry import pose_matrix
from pipeline.bench2drive.ground_truth.agent_futures import agent_futures
from pipeline.bench2drive.ground_truth.boxes import Boxes, frame_boxes, seen_boxes
from pipeline.bench2drive.ground_truth.classes import CLASSES, UNKNOWN, label_of
from pipeline.bench2drive.ground_truth.visibility import CORNER_SIGNS, filter_corners, visible
from tests.paths import ROOT

SAMPLE = ROOT / "../shared/samples/bench2drive_real_anno_Accident_Town03_Route24816_Weather25_00093.json"
ALL_LABELS = (UNKNOWN, *range(len(CLASSES)))


def boxes_of(clip) -> list[Boxes]:
    """All boxes of every frame that are near enough, seen or not."""
    return [frame_boxes(read_annotation(clip.annotation_path(frame)), ALL_LABELS) for frame in clip.frames]


def test_golden_vehicle(clip_of, vehicle):
    (boxes,) = boxes_of(clip_of([vehicle()]))
    np.testing.assert_allclose(boxes.centre[0], (-3.071797, 21.710508, -1.09), atol=1e-6)
    np.testing.assert_allclose(boxes.size[0], (2.0, 4.8, 1.5))
    assert boxes.yaw[0] == pytest.approx(1.308997)
    assert (boxes.id[0], boxes.num_points[0], CLASSES[boxes.label[0]]) == (201, 40, "car")


def test_golden_vehicle_in_the_front_camera(clip_of, vehicle):
    clip = clip_of([vehicle()])
    (boxes,) = boxes_of(clip)
    annotation = read_annotation(clip.annotation_path(0))
    point = annotation.lidar2cam[0] @ (*boxes.centre[0], 1)
    assert point[2] == pytest.approx(20.520508, abs=1e-6)
    pixel = annotation.intrinsic[0] @ point[:3] / point[2]
    np.testing.assert_allclose(pixel[:2], (628.97186, 497.32537), atol=1e-4)


def test_golden_corners(clip_of, vehicle):
    (boxes,) = boxes_of(clip_of([vehicle()]))
    corners = filter_corners(boxes.centre[0], boxes.size[0], boxes.yaw[0])
    np.testing.assert_allclose(corners[0], (-0.494756, 21.365748, -0.34), atol=1e-6)
    world = pose_matrix((120, 58, 0), (0, 0, 45)) @ np.append(
        CORNER_SIGNS[0] * (2.4, 1.0, 0.75) + (0, 0, 0.75), 1
    )
    np.testing.assert_allclose(world[:3], (120.989949, 60.404163, 1.5), atol=1e-6)


def test_golden_walker(clip_of, walker):
    (boxes,) = boxes_of(clip_of([walker()]))
    np.testing.assert_allclose(boxes.centre[0], (-6.732051, 8.050254, -0.84), atol=1e-6)
    assert boxes.yaw[0] == pytest.approx(0.0, abs=1e-9)
    assert CLASSES[boxes.label[0]] == "pedestrian"


def test_golden_light(clip_of, light):
    (boxes,) = boxes_of(clip_of([light]))
    np.testing.assert_allclose(boxes.centre[0], (-6.339746, 31.370762, 3.16), atol=1e-6)
    assert abs(boxes.yaw[0]) == pytest.approx(math.pi)
    assert boxes.num_points[0] == -1
    assert CLASSES[boxes.label[0]] == "traffic_light"
    assert len(boxes.for_planning()) == 1


@pytest.mark.parametrize(
    ("change", "read", "planned"),
    [
        ({}, 1, 1),
        ({"distance": 75.0}, 1, 1),
        ({"distance": 80.0}, 0, 0),
        ({"location": [120, 58, 12]}, 0, 0),
        ({"location": [120, 58, -12]}, 0, 0),
        ({"num_points": 0}, 1, 0),
        ({"type_id": "vehicle.unheard.of"}, 1, 0),
        ({"center": [150, 80, 0.75]}, 1, 0),
        ({"speed": None, "brake": math.nan}, 1, 1),
    ],
)
def test_filters(clip_of, vehicle, change, read, planned):
    (boxes,) = boxes_of(clip_of([vehicle(**change)]))
    assert (len(boxes), len(boxes.for_planning())) == (read, planned)


def test_a_frame_without_boxes(clip_of):
    clip = clip_of([])
    (boxes,) = boxes_of(clip)
    assert boxes.centre.shape == boxes.size.shape == (0, 3)
    assert boxes.actor2world.shape == (0, 4, 4)
    futures = agent_futures(boxes, [boxes], 0, np.eye(4))
    assert futures.offsets.shape == (0, 6, 2)
    assert futures.mask.shape == futures.yaw_offsets.shape == (0, 6)


def test_a_missing_key_names_the_box(clip_of, vehicle):
    broken = vehicle()
    del broken["extent"]
    with pytest.raises(ClipError, match=r"'bounding_boxes\[1\].extent'"):
        boxes_of(clip_of([broken]))


def placed(vehicle, x, y, yaw=30.0, **changes):
    """The vehicle moved to ``x`` metres right and ``y`` forward of the golden ego's origin."""
    forward, right = (
        np.array([np.cos(np.radians(30)), np.sin(np.radians(30))]),
        np.array([-0.5, np.sqrt(0.75)]),
    )
    east, south = np.array([100, 50]) + y * forward + x * right
    return vehicle(
        location=[east, south, 0],
        center=[east, south, 0.75],
        rotation=[0, 0, yaw],
        distance=float(np.hypot(x, y)),
        world2vehicle=np.linalg.inv(pose_matrix((east, south, 0), (0, 0, yaw))).tolist(),
        **changes,
    )


@pytest.mark.parametrize(("x", "y", "seen"), [(0, 20, True), (0, -20, True), (2, 0, False), (-2, 0.3, False)])
def test_boxes_beside_the_ego_are_in_no_camera(clip_of, vehicle, x, y, seen):
    clip = clip_of([placed(vehicle, x, y, extent=[0.2, 0.2, 0.2])])
    (boxes,) = boxes_of(clip)
    assert len(boxes) == 1
    assert len(seen_boxes(boxes, read_annotation(clip.annotation_path(0)))) == seen


def test_two_points_in_one_camera_are_seen_and_one_is_not(clip_of, vehicle):
    annotation = read_annotation(clip_of([vehicle()]).annotation_path(0))
    corners = np.array([[-1.0, 20.0, -1.0], [1.0, 20.0, -1.0], [1.0, 80.0, -1.0], [0.0, 0.0, 0.0]])
    assert visible(corners[None], annotation).tolist() == [True]
    # One point is visible; those 80 m away and at the LiDAR itself are not.
    assert visible(corners[None, 1:], annotation).tolist() == [False]


@pytest.mark.skipif(not SAMPLE.is_file(), reason="the real frame may not be shared, and is not at hand")
def test_real_boxes(tmp_path):
    annotation = read_annotation(SAMPLE)
    boxes = frame_boxes(annotation, ALL_LABELS)
    assert boxes.label.tolist() == [label_of("vehicle.lincoln.mkz_2020"), 0, CLASSES.index("traffic_sign")]
    # Distances in the file are between actors; the LiDAR sits 0.39 m behind the ego's origin.
    flat = np.linalg.norm(boxes.centre[:2, :2], axis=1)
    np.testing.assert_allclose(flat, (66.285, 20.236), atol=0.5)


@pytest.mark.parametrize(
    ("type_id", "name"),
    [
        ("vehicle.tesla.model3", "car"),
        ("/Game/Carla/Static/Car/4Wheeled/ParkedVehicles/TeslaM3/SM_TeslaM3_parked.SM_TeslaM3_parked", "car"),
        (
            "/Game/Carla/Static/Car/4Wheeled/ParkedVehicles/VolkswagenT2/"
            "SM_VolkswagenT2_2021_Parked.SM_VolkswagenT2_2021_Parked",
            "van",
        ),
        ("vehicle.carlamotors.firetruck", "truck"),
        ("vehicle.bh.crossbike", "bicycle"),
        ("traffic.speed_limit.60", "traffic_sign"),
        ("static.prop.constructioncone", "traffic_cone"),
        ("traffic.traffic_light", "traffic_light"),
        ("walker.pedestrian.0047", "pedestrian"),
        ("static.prop.dirtdebris02", "others"),
    ],
)
def test_classes(type_id, name):
    assert CLASSES[label_of(type_id)] == name


def test_an_unknown_class():
    assert label_of("walker.pedestrian.0002") == UNKNOWN == -1


def drive_ahead(clip_of, vehicle, gap=()):
    """31 frames of a car 20 m ahead that drives off at 4 m/s and turns right by 2 degrees a frame."""
    return clip_of(
        *(
            [] if frame in gap else [placed(vehicle, 0.0, 20 + 0.4 * frame, yaw=30.0 + 2.0 * frame)]
            for frame in range(31)
        )
    )


def test_futures(clip_of, vehicle):
    clip = drive_ahead(clip_of, vehicle)
    boxes = boxes_of(clip)
    futures = agent_futures(boxes[0], boxes, 0, read_annotation(clip.annotation_path(0)).world2lidar)
    np.testing.assert_allclose(futures.offsets[0], [(0, 2)] * 6, atol=1e-9)
    assert futures.mask.all()
    np.testing.assert_allclose(futures.yaw_offsets[0], [-math.radians(10)] * 6, atol=1e-9)


def test_a_gap_in_the_future(clip_of, vehicle):
    clip = drive_ahead(clip_of, vehicle, gap=(10,))
    boxes = boxes_of(clip)
    world2lidar = read_annotation(clip.annotation_path(0)).world2lidar
    futures = agent_futures(boxes[0], boxes, 0, world2lidar)
    assert futures.mask[0].tolist() == [True, False, True, True, True, True]
    np.testing.assert_allclose(futures.offsets[0, 1], (0, 0))
    # The step out of the gap starts from the LiDAR itself: 20.39 + 6 m.
    np.testing.assert_allclose(futures.offsets[0, 2], (0, 26.39), atol=1e-9)
    yaw = np.radians([90.0, 80.0, 0.0, 60.0, 50.0, 40.0, 30.0])
    np.testing.assert_allclose(futures.yaw_offsets[0], np.diff(yaw), atol=1e-9)


def test_an_actor_that_leaves_and_one_that_stands(clip_of, vehicle):
    parked = placed(vehicle, 3.0, 12.0, id="7")
    clip = clip_of(*([parked, placed(vehicle, 0.0, 20.0)] if frame < 12 else [parked] for frame in range(31)))
    boxes = boxes_of(clip)
    futures = agent_futures(boxes[0], boxes, 0, read_annotation(clip.annotation_path(0)).world2lidar)
    assert futures.mask.tolist() == [[True] * 6, [True, True, False, False, False, False]]
    late = agent_futures(boxes[28], boxes, 28, np.eye(4))
    assert not late.mask.any()


def test_turns_are_wrapped_once(clip_of, vehicle):
    clip = clip_of(*([placed(vehicle, 0.0, 20.0, yaw=-50.0 - 20.0 * (frame // 5))] for frame in range(31)))
    boxes = boxes_of(clip)
    futures = agent_futures(boxes[0], boxes, 0, read_annotation(clip.annotation_path(0)).world2lidar)
    np.testing.assert_allclose(futures.yaw_offsets[0], [math.radians(20)] * 6, atol=1e-9)


def test_tracks_follow_a_yaw_that_disagrees_with_its_matrix(clip_of, vehicle):
    lying = vehicle(rotation=[0, 0, 90])
    (boxes,) = boxes_of(clip_of([lying]))
    np.testing.assert_allclose(boxes.actor2world[0][:3, :3], [(0, 1, 0), (-1, 0, 0), (0, 0, 1)], atol=1e-12)
    np.testing.assert_allclose(boxes.actor2world[0][:3, 3], (120, -58, 0), atol=1e-9)
    assert boxes.yaw[0] == pytest.approx(1.308997)

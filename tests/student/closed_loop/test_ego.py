import json
import math

import numpy as np
import pytest

from cache_schema.errors import RequestError
from cache_schema.vocabulary.route import RoadOption
from student.closed_loop.ego import EgoTracker
from student.closed_loop.inputs import RoutePlan, Sensors
from student.closed_loop.map_reference import EARTH_RADIUS_M, MapReference
from student.closed_loop.rig import LIDAR_TO_EGO
from tests.student.closed_loop.recorded import DRIVES, route_plan, sensors

METRE = 180 / (math.pi * EARTH_RADIUS_M)
"""Degrees of a great circle."""
NORTH, EAST, SOUTH, WEST = 0.0, math.pi / 2, math.pi, 3 * math.pi / 2
"""Compass."""
UNKNOWN = np.full(7, np.nan)


@pytest.fixture(params=DRIVES, ids=lambda path: path.stem)
def drive(request):
    return json.loads(request.param.read_text())


def gps(x, y):
    """Degrees of a place in a town on the equator; Mercator stretches its metres by less than 1e-8."""
    return np.array([-y * METRE, x * METRE, 0.0])


def plan(*nodes):
    """A route on the equator of nodes (x, y, option)."""
    world = np.array([[x, y, 0.0] for x, y, _ in nodes])
    return RoutePlan(
        np.stack([gps(x, y) for x, y, _ in nodes]), world, np.array([option for *_, option in nodes])
    )


EASTWARDS = plan((0, 0, RoadOption.LEFT), (30, 0, RoadOption.RIGHT), (60, 0, RoadOption.LANEFOLLOW))


def at(step, x, y, compass, speed=0.0, rates=(0.0, 0.0, 0.0)):
    return Sensors(step, gps(x, y), np.array([0.1, 0.2, 9.8, *rates, compass]), speed)


def test_parity_is_the_recorded_agent(drive):
    tracker = EgoTracker(route_plan(drive), "parity")
    for step, tick in enumerate(drive["ticks"]):
        state, expected = tracker.step(sensors(step, tick)), tick["out"]
        assert (state.nodes_left, state.command) == (expected["nodes_left"], expected["command_index"])
        assert state.timestamp_s == expected["timestamp"]
        for name, found in [
            ("pos", state.position),
            ("can_bus", state.can_bus),
            ("ego_pose", state.ego_pose),
            ("command_near_xy", state.near_xy),
            ("local_command_xy", state.local_command_xy),
        ]:
            np.testing.assert_allclose(
                found, expected[name], rtol=1e-8, atol=1e-6, err_msg=f"{name} at {step}"
            )


def test_the_inverse_pose_is_rounded_as_upstream_rounds_it(drive):
    state = EgoTracker(route_plan(drive), "parity").step(sensors(0, drive["ticks"][0]))
    np.testing.assert_array_equal(state.ego_pose_inv, state.ego_pose_inv.astype(np.float32))
    np.testing.assert_allclose(state.ego_pose_inv, np.linalg.inv(state.ego_pose), rtol=1e-7, atol=1e-7)


def test_corrected_begins_where_the_map_has_it(drive):
    """1.4 m from the antenna, which parity has elsewhere in towns off the equator."""
    sensed = sensors(0, drive["ticks"][0])
    antenna = MapReference(*drive["map_reference"]).metres(sensed.gps[:2])
    position = EgoTracker(route_plan(drive), "corrected").step(sensed).position
    assert np.linalg.norm(position - antenna) == pytest.approx(1.4, abs=1e-6)


def test_the_command_is_the_next_nodes():
    assert EgoTracker(EASTWARDS, "parity").step(at(0, 0, 0, EAST)).command == 0
    assert EgoTracker(EASTWARDS, "corrected").step(at(0, 0, 0, EAST)).command == 1


@pytest.mark.parametrize(
    ("compass", "parity_deg", "corrected_deg"),
    [
        (NORTH, 90, 90),
        (EAST, 0, 0),
        (SOUTH, -90, 270),
        (WEST, -180, 180),
        (WEST + 1.0, -180 - 57.29578, 122.70422),
    ],
)
def test_the_yaw_is_wrapped_but_not_in_the_quaternion(compass, parity_deg, corrected_deg):
    for mode, degrees in (("parity", parity_deg), ("corrected", corrected_deg)):
        can_bus = EgoTracker(EASTWARDS, mode).step(at(0, 0, 0, compass)).can_bus
        assert can_bus[17] == pytest.approx(degrees, abs=1e-5)
        assert can_bus[16] == pytest.approx(math.radians(degrees), abs=1e-7)
        half = math.radians(parity_deg) / 2
        assert can_bus[3:7] == pytest.approx([math.cos(half), 0, 0, math.sin(half)], abs=1e-7)


@pytest.mark.parametrize(
    ("compass", "x", "y"), [(EAST, 11.4, 2.0), (SOUTH, 10.0, 3.4), (WEST, 8.6, 2.0), (NORTH, 10.0, 0.6)]
)
def test_the_antenna_is_behind_the_ego(compass, x, y):
    sensed = at(0, 10.0, 2.0, compass)
    assert EgoTracker(EASTWARDS, "parity").step(sensed).position == pytest.approx([10, 2], abs=1e-6)
    assert EgoTracker(EASTWARDS, "corrected").step(sensed).position == pytest.approx([x, y], abs=1e-6)


def test_poses_count_from_the_first_tick():
    tracker = EgoTracker(EASTWARDS, "corrected")
    first = tracker.step(at(0, 10.0, 2.0, SOUTH))
    # Only the LiDAR's mount is left: 0.39 m behind the ego, which looks along -y of the right-handed world.
    np.testing.assert_allclose(first.ego_pose[:3, 3], [0, 0.39, 1.84], atol=1e-9)
    np.testing.assert_allclose(first.can_bus[:3], 0, atol=1e-9)
    # The LiDAR's x, to the right, is west; its y, forward, is south.
    np.testing.assert_allclose(first.ego_pose[:2, :2], [[-1, 0], [0, -1]], atol=1e-9)
    # At 20 m/s, 1 m further south where GPS says so, too.
    tracker = EgoTracker(EASTWARDS, "corrected")
    tracker.step(at(0, 10.0, 2.0, SOUTH, 20.0))
    second = tracker.step(at(1, 10.0, 3.0, SOUTH, 20.0))
    np.testing.assert_allclose(second.ego_pose[:3, 3], [0, 0.39 - 1, 1.84], atol=1e-6)
    np.testing.assert_allclose(second.can_bus[:2], [0, -1], atol=1e-6)
    np.testing.assert_allclose(second.position, [10, 4.4], atol=1e-6)


def test_parity_counts_from_the_map():
    state = EgoTracker(EASTWARDS, "parity").step(at(0, 10.0, 2.0, EAST))
    np.testing.assert_allclose(state.ego_pose[:3, 3], [10 - 0.39, -2, 1.84], atol=1e-6)
    np.testing.assert_allclose(state.ego_pose[:3, :3], LIDAR_TO_EGO[:3, :3], atol=1e-9)


def test_positions_are_filtered_in_the_middle_of_a_turn():
    """From facing east to facing north-east within a tick, at 20 m/s: 1 m along 22.5 degrees."""
    tracker = EgoTracker(EASTWARDS, "corrected")
    turning = (0.0, 0.0, -math.pi / 4 * 20)  # CARLA's rotation rates are clockwise
    tracker.step(at(0, 0.0, 0.0, EAST, 20.0))
    x, y = math.cos(math.pi / 8), -math.sin(math.pi / 8)
    state = tracker.step(at(1, x, y, EAST - math.pi / 4, 20.0, turning))
    lever = 1.4 * math.sqrt(0.5)
    np.testing.assert_allclose(state.position, [x + lever, y - lever], atol=1e-6)
    # Where GPS says something else, half of it is believed at the second tick.
    tracker = EgoTracker(EASTWARDS, "corrected")
    tracker.step(at(0, 0.0, 0.0, EAST, 20.0))
    state = tracker.step(at(1, x, y + 1.0, EAST - math.pi / 4, 20.0, turning))
    np.testing.assert_allclose(state.position, [x + lever, y - lever + 0.5], atol=1e-3)


def test_without_a_compass_parity_looks_north_and_corrected_along_the_route():
    unknown = Sensors(0, gps(0, 0), UNKNOWN, 3.0)
    for mode, degrees in (("parity", 90), ("corrected", 0)):
        state = EgoTracker(EASTWARDS, mode).step(unknown)
        assert state.can_bus[17] == pytest.approx(degrees, abs=1e-5)
        assert not state.can_bus[10:16].any()
        assert state.can_bus[7] == 3.0


def test_without_a_compass_corrected_turns_on():
    turning = (0.0, 0.0, -0.8)
    for mode, degrees in (("parity", 90.0), ("corrected", math.degrees(0.8 * 0.05))):
        tracker = EgoTracker(EASTWARDS, mode)
        tracker.step(at(0, 0, 0, EAST, 1.0, turning))
        state = tracker.step(Sensors(1, gps(0.05, 0), UNKNOWN, 1.0))
        assert state.can_bus[17] == pytest.approx(degrees, abs=1e-5)


def test_signs_of_the_can_bus():
    imu = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, EAST])
    can_bus = EgoTracker(EASTWARDS, "parity").step(Sensors(0, gps(0, 0), imu, 7.0)).can_bus
    assert can_bus[7:16].tolist() == [7, 0, 0, 1, -2, 3, -4, -5, -6]


def test_the_next_node_from_the_ego():
    # Facing south, 30 m to the east are 30 m to the left; 5 m of them are behind.
    state = EgoTracker(EASTWARDS, "parity").step(at(0, 0, 5, SOUTH))
    np.testing.assert_allclose(state.near_xy, [30, 5], atol=1e-6)
    np.testing.assert_allclose(state.local_command_xy, [-30, -5], atol=1e-6)


@pytest.mark.parametrize("mode", ["parity", "corrected"])
def test_a_start_elsewhere_is_refused(mode):
    EgoTracker(EASTWARDS, mode).step(at(0, 0, 14.9, EAST))
    with pytest.raises(RequestError, match="GPS is 15 m away"):
        EgoTracker(EASTWARDS, mode).step(at(0, 0, 15.1, EAST))
    later = EgoTracker(EASTWARDS, mode)
    later.step(at(0, 0, 0, EAST))
    later.step(at(1, 0, 15.1, EAST))


@pytest.mark.parametrize("mode", ["parity", "corrected"])
def test_flipped_latitudes_are_found(drive, mode):
    """What a CARLA client of another version does: as far north as the place is south."""
    tick = sensors(0, drive["ticks"][0])
    latitude = 2 * drive["map_reference"][0] - tick.gps[0]
    with pytest.raises(RequestError, match="away from the first node"):
        EgoTracker(route_plan(drive), mode).step(tick._replace(gps=np.array([latitude, *tick.gps[1:]])))


def test_a_route_whose_degrees_are_not_its_metres_is_refused():
    world = EASTWARDS.world.copy()
    world[2, 1] = 40.0
    with pytest.raises(RequestError, match="node 2 of the route is 40 m away"):
        EgoTracker(EASTWARDS._replace(world=world), "parity")


def test_a_route_is_checked():
    assert EgoTracker(plan((0, 0, 4), (1, 0, 4)), "parity").step(at(0, 0, 0, EAST)).nodes_left == 2
    one = RoutePlan(EASTWARDS.gps[:1], EASTWARDS.world[:1], EASTWARDS.options[:1])
    uneven = EASTWARDS._replace(options=EASTWARDS.options[:2])
    flat = EASTWARDS._replace(gps=EASTWARDS.gps[:, :2])
    nowhere = EASTWARDS._replace(gps=np.full((3, 3), np.nan))
    off_the_earth = EASTWARDS._replace(world=EASTWARDS.world + 1e300)
    no_option = EASTWARDS._replace(options=np.array([4, 0, 4]))
    for wrong in (one, uneven, flat, nowhere, off_the_earth, no_option):
        with pytest.raises(RequestError, match="the route"):
            EgoTracker(wrong, "parity")


@pytest.mark.parametrize(
    "unknown",
    [
        at(0, np.nan, 0, EAST),
        at(0, np.inf, 0, EAST),
        at(0, 0, 90 / METRE, EAST),
        at(0, 0, 0, EAST, np.nan),
        at(0, 0, 0, np.inf),
        at(0, 0, 0, EAST, 0.0, (0.0, 0.0, np.nan)),
    ],
)
def test_values_that_no_sensor_has_are_refused(unknown):
    with pytest.raises(RequestError, match="at step 0, GPS, IMU or speed is not finite"):
        EgoTracker(EASTWARDS, "parity").step(unknown)

"""Rules of the leaderboard on roads that can be computed by hand."""

import numpy as np
import pytest

from pipeline.bench2drive.rehearsal.criteria import (
    Blocked,
    Collisions,
    InRoute,
    MinimumSpeed,
    Obstacle,
    OutsideLanes,
    Progress,
    overlap,
    rectangle,
)
from pipeline.bench2drive.rehearsal.world import Pose, RouteTask


@pytest.fixture
def straight():
    """100 m along x, a node a metre."""
    positions = np.column_stack([np.arange(101.0), np.zeros(101), np.zeros(101)])
    return RouteTask(1, "Town03", "A", 0, positions, np.zeros(101), np.full(101, 4))


def at(x, y=0.0, speed=5.0, yaw=0.0):
    return Pose(x, y, yaw, speed)


def test_progress_is_the_last_node_that_was_passed(straight):
    progress = Progress(straight)
    for x, percent in ((0.5, 0.0), (1.5, 1.0), (3.9, 3.0), (8.0, 5.0), (8.0, 7.0), (2.0, 7.0)):
        progress.step(at(x))  # no more than two nodes beyond the next at a time, and never back
        assert progress.percent == percent


def test_the_end_is_completed_near_to_it_only(straight):
    near, far = Progress(straight), Progress(straight)
    for x in np.arange(0.0, 101.0, 0.5):
        near.step(at(x, 9.0))
        far.step(at(x, 12.0))
        assert near.percent < 100 or x > 99.0
    assert near.percent == 100.0
    assert far.percent == 100.0  # the last node itself was passed
    far = Progress(straight)
    for x in np.arange(0.0, 100.0, 0.5):
        far.step(at(x, 12.0))
    assert far.percent == 99.0


def test_far_from_the_route(straight):
    assert InRoute(straight).step(at(0, 29.9)) is None
    assert (
        InRoute(straight).step(at(0, 30.0)).message == "Agent deviated from the route at (x=0, y=30.0, z=0.0)"
    )


@pytest.mark.parametrize(("y", "until"), [(14.9, None), (15.1, 31)])
def test_long_outside_of_the_route(straight, y, until):
    rule = InRoute(straight)
    ended = [x for x in range(101) if rule.step(at(x, y))]
    assert ended[:1] == ([] if until is None else [until])


def test_the_route_is_searched_ahead_only(straight):
    rule = InRoute(straight)
    for x in range(51):
        assert rule.step(at(x)) is None
    assert rule.step(at(21.0)) is None  # 29 m behind node 50
    assert rule.step(at(19.0)) is not None


def test_blocked_after_more_than_a_minute():
    rule = Blocked()
    assert not any(rule.step(at(0, speed=0.099)) for _ in range(1200))
    assert rule.step(at(0, speed=0.1)) is None
    assert not any(rule.step(at(0, speed=0.0)) for _ in range(1200))
    assert rule.step(at(0, speed=0.0)).kind == "vehicle_blocked"


def test_rectangles():
    square = rectangle(np.zeros(2), 0.0, (1.0, 1.0))
    assert overlap(square, rectangle(np.array([1.9, 0.0]), 0.0, (1.0, 1.0)))
    assert not overlap(square, rectangle(np.array([2.1, 0.0]), 0.0, (1.0, 1.0)))
    # On its corner it reaches sqrt(2) far; aside of the diagonal it does not reach that of the square.
    assert overlap(square, rectangle(np.array([2.4, 0.0]), 45.0, (1.0, 1.0)))
    assert not overlap(square, rectangle(np.array([2.42, 0.0]), 45.0, (1.0, 1.0)))
    assert not overlap(square, rectangle(np.array([1.8, 1.8]), 45.0, (1.0, 1.0)))
    long = rectangle(np.array([10.0, 20.0]), 90.0, (3.0, 1.0))  # along y
    np.testing.assert_allclose(np.ptp(long, axis=0), [2.0, 6.0])


def wall(number, x, y=0.0):
    return Obstacle("collisions_layout", number, "static.wall", rectangle(np.array([x, y]), 0.0, (0.5, 50.0)))


def test_a_collision_counts_once():
    rule = Collisions((2.0, 1.0))
    walls = [wall(7, 10.0)]
    assert rule.step(at(7.4), walls) is None
    event = rule.step(at(7.6), walls)
    assert event.kind == "collisions_layout"
    assert (
        event.message
        == "Agent collided against object with type=static.wall and id=7 at (x=7.6, y=0.0, z=0.0)"
    )
    assert rule.step(at(8.0), walls) is None


def test_a_collision_counts_again_elsewhere_and_later():
    rule = Collisions((2.0, 1.0))
    walls = [wall(7, 10.0), wall(8, 14.0), wall(9, 20.0)]
    assert rule.step(at(8.0), walls).message.count("id=7")
    assert rule.step(at(12.9), walls) is None  # 4.9 m on, another wall
    assert rule.step(at(13.1), walls).message.count("id=8")
    # Along the same wall: for 5 s not again, if nowhere near another.
    rule = Collisions((2.0, 1.0))
    found = [tick for tick in range(250) if rule.step(at(10.0, 0.1 * tick), [wall(7, 10.0)])]
    assert found == [0, 101, 202]


def test_who_stands_is_not_blamed():
    assert Collisions((2.0, 1.0)).step(at(8.0, speed=0.09), [wall(7, 10.0)]) is None
    assert Collisions((2.0, 1.0)).step(at(8.0, speed=0.1), [wall(7, 10.0)]) is not None


def test_the_way_outside_of_the_lanes():
    rule = OutsideLanes(-5.25, 1.75)
    assert rule.event() is None
    for lateral in (0.0, 2.2, 2.3, -5.7, -5.8):
        rule.step(10.0, lateral)
    event = rule.event()
    assert (
        event.message
        == "Agent went outside its route lanes for about 20.0 meters (40.0% of the completed route)"
    )
    assert event.outside_percent == 40.0


def test_speeds_are_compared_on_every_twentieth():
    rule = MinimumSpeed(100.0)
    assert [rule.step(x, 5.0, [10.0, 0.0, 2.0]) for x in (0.0, 3.0, 5.0)] == [None] * 3
    assert rule.step(6.0, 0.0, [4.0]).message == "Average speed is 125.0% of the surrounding traffic's one"
    assert rule.step(11.5, 1.0, [1.0]).message == "Average speed is 0.0% of the surrounding traffic's one"
    assert rule.step(17.0, 1.0, []).message == "Average speed is 100.0% of the surrounding traffic's one"
    assert rule.event().message == "Average speed is 100% of the surrounding traffic's one"

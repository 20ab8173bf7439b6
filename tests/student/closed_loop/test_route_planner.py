import numpy as np

from student.closed_loop.route_planner import Node, RoutePlanner
from tests.student.closed_loop.recorded import read


def nodes(*rows):
    return [Node(np.array([x, y]), option) for x, y, option in rows]


def test_every_recorded_route():
    for route in read("planner.json"):
        planner = RoutePlanner(nodes(*route["nodes"]))
        for position, expected in zip(
            route["positions"], route["result_nodesleft_current_near"], strict=True
        ):
            behind, near = planner.step(np.array(position))
            found = [planner.nodes_left, *behind.xy, behind.option, *near.xy, near.option]
            assert found == expected


def test_the_farthest_of_the_nodes_within_reach_becomes_the_first():
    planner = RoutePlanner(nodes((0, 0, 4), (3, 0, 1), (7, 0, 2), (20, 0, 3), (40, 0, 4)))
    # Nodes 1 and 2 are within 4 m of (5, 0), at 2 m each: the first of them wins.
    behind, near = planner.step(np.array([5.0, 0.0]))
    assert (behind.option, near.option, planner.nodes_left) == (1, 2, 4)
    # 4 m are reached, a bit more are not.
    assert planner.step(np.array([15.99, 0.0]))[0].option == 1
    assert planner.step(np.array([16.0, 0.0]))[0].option == 3


def test_a_node_is_not_looked_for_farther_ahead_than_50_m():
    # The third node is where the ego is, but 56 m of route ahead: the second is reached first.
    planner = RoutePlanner(nodes((0, 0, 4), (28, 0, 1), (0, 0.5, 2), (0, 9, 3)))
    assert planner.step(np.array([0.0, 0.0]))[0].option == 2
    planner = RoutePlanner(nodes((0, 0, 4), (51, 0, 1), (0, 0.5, 2), (0, 9, 3)))
    assert planner.step(np.array([0.0, 0.0]))[0].option == 4


def test_two_nodes_remain():
    planner = RoutePlanner(nodes((0, 0, 4), (3, 0, 1), (6, 0, 2)))
    behind, near = planner.step(np.array([6.0, 3.9]))
    assert (behind.option, near.option, planner.nodes_left) == (1, 2, 2)

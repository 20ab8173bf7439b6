import json
import math

import numpy as np
import pytest

from student.closed_loop.map_reference import EARTH_RADIUS_M, MapReference
from tests.student.closed_loop.recorded import DRIVES

METRE = 180 / (math.pi * EARTH_RADIUS_M)
"""Degrees of a great circle."""


@pytest.fixture(params=DRIVES, ids=lambda path: path.stem)
def drive(request):
    return json.loads(request.param.read_text())


def test_a_node_gives_the_reference(drive):
    found = MapReference.of_node(drive["plan_gps"][0][:2], drive["plan_world"][0][:2])
    assert found == pytest.approx(drive["map_reference"], abs=1e-12)


def test_degrees_become_the_metres_of_the_route(drive):
    gps, world = np.array(drive["plan_gps"])[:, :2], np.array(drive["plan_world"])[:, :2]
    metres = MapReference(*drive["map_reference"]).metres(gps)
    np.testing.assert_allclose(metres, world, rtol=0, atol=1e-6)


def test_the_agent_ends_where_the_agent_ended(drive):
    solved = MapReference.as_the_agent_solves_it(drive["plan_gps"][0][:2], drive["plan_world"][0][:2])
    assert solved == pytest.approx(drive["solved_reference"], rel=0, abs=1e-10)


def test_east_is_x_and_south_is_y():
    reference = MapReference(0.0, 10.0)
    np.testing.assert_allclose(reference.metres([0.0, 10.0 + 7 * METRE]), [7, 0], atol=1e-6)
    np.testing.assert_allclose(reference.metres([-3 * METRE, 10.0]), [0, 3], atol=1e-6)
    # At 60 degrees a degree of longitude is half as long.
    np.testing.assert_allclose(MapReference(60.0, 0.0).metres([60.0, 8 * METRE]), [4, 0], atol=1e-6)

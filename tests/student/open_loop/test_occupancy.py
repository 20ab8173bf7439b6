"""Rasters against what the authors' own metric returns (see tests/golden/metric)."""

import numpy as np
import pytest

from cache_schema.vocabulary.driving import HUMANS, VEHICLES
from student.open_loop.occupancy import Agents, corner_cells, draw, fill


def rasterise(agents, classes):
    """Draw one frame's agents of some classes, as (T, R, C)."""
    return draw(corner_cells(agents), agents.mask & np.isin(agents.classes, classes)[:, None])


@pytest.fixture(scope="module")
def grids(recorded_agents):
    """Return the vehicle and human rasters of all samples, each (N, T, R, C)."""
    frames = range(len(recorded_agents.classes))
    return tuple(
        np.stack([rasterise(recorded_agents.at(frame), kind) for frame in frames])
        for kind in (VEHICLES, HUMANS)
    )


def test_rasters_match_the_recording_cell_for_cell(grids, recorded_metric):
    vehicles, humans = grids
    union = vehicles | humans
    for found, name in ((vehicles, "vehicle"), (humans, "human"), (union, "occupied")):
        np.testing.assert_array_equal(found.sum(axis=(2, 3)), recorded_metric[f"out.{name}_cells"])
    index = np.arange(200)
    for axis, name in ((3, "row"), (2, "col")):
        sums = (union.sum(axis=axis) * index).sum(axis=2)
        np.testing.assert_array_equal(sums, recorded_metric[f"out.occupied_{name}_sum"])
    recorded = np.unpackbits(recorded_metric["occupancy.packed"], axis=-1).reshape(4, 6, 200, 200)
    np.testing.assert_array_equal(union[recorded_metric["occupancy.sample"]], recorded)


def one_car(mask):
    """8 m ahead, heading along the ego's way."""
    return Agents(
        boxes=np.array([[0, 8, 4.8, 2.0, np.pi / 2]]),
        classes=np.zeros(1, np.int8),
        offsets=np.zeros((1, 6, 3)),
        mask=np.array([mask], dtype=bool),
    )


def test_one_car_ahead():
    grid = rasterise(one_car([1] * 6), VEHICLES)
    assert grid[0].sum() == 55
    rows, columns = np.nonzero(grid[0])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (79, 89, 98, 102)
    assert not rasterise(one_car([1] * 6), HUMANS).any()


def test_masked_steps_are_not_drawn():
    steps = [True, False, True, False, False, False]
    assert rasterise(one_car(steps), VEHICLES).any(axis=(1, 2)).tolist() == steps


def test_polygons_outside_the_grid_leave_it_empty():
    for corners in ([[-9, 3], [-5, 3], [-5, 9], [-9, 9]], [[3, 205], [9, 205], [9, 220], [3, 220]]):
        grid = np.zeros((200, 200), dtype=bool)
        fill(grid, np.array(corners))
        assert not grid.any()

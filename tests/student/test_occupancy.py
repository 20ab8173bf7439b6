"""Collision rasters and flags against what the authors' own metric returns (see tests/golden/metric)."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from student.occupancy import HUMANS, VEHICLES, collisions, fill, rasterise

VECTORS = load_file(Path(__file__).parents[1] / "golden/metric/vectors.safetensors")
ENDS = VECTORS["in.num_agents"].cumsum()


@pytest.fixture(scope="module")
def grids():
    """Return the vehicle and human rasters of all samples, each (N, T, R, C)."""
    agents = [slice(end - count, end) for end, count in zip(ENDS, VECTORS["in.num_agents"], strict=True)]
    return tuple(
        np.stack([rasterise(VECTORS["in.boxes"][some], VECTORS["in.feats"][some], kind) for some in agents])
        for kind in (VEHICLES, HUMANS)
    )


def test_rasters_match_the_recording_cell_for_cell(grids):
    vehicles, humans = grids
    union = vehicles | humans
    np.testing.assert_array_equal(vehicles.sum(axis=(2, 3)), VECTORS["out.vehicle_cells"])
    np.testing.assert_array_equal(humans.sum(axis=(2, 3)), VECTORS["out.human_cells"])
    np.testing.assert_array_equal(union.sum(axis=(2, 3)), VECTORS["out.occupied_cells"])
    index = np.arange(200)
    np.testing.assert_array_equal((union.sum(axis=3) * index).sum(axis=2), VECTORS["out.occupied_row_sum"])
    np.testing.assert_array_equal((union.sum(axis=2) * index).sum(axis=2), VECTORS["out.occupied_col_sum"])
    recorded = np.unpackbits(VECTORS["occupancy.packed"], axis=-1).reshape(4, 6, 200, 200)
    np.testing.assert_array_equal(union[VECTORS["occupancy.sample"]], recorded)


def test_collision_flags_match_the_recording(grids):
    found = [
        collisions(predicted, truth, union)
        for predicted, truth, union in zip(
            VECTORS["in.pred"], VECTORS["in.gt"], grids[0] | grids[1], strict=True
        )
    ]
    for part, name in enumerate(
        ("gt_box_collides", "pred_box_collides", "obj_box_col_steps", "obj_col_steps")
    ):
        np.testing.assert_array_equal(np.stack([each[part] for each in found]), VECTORS[f"out.{name}"])
    box = np.stack([each.box for each in found])
    for seconds in (1, 2, 3):
        rate = box[:, : 2 * seconds].mean(axis=1)
        np.testing.assert_allclose(rate, VECTORS[f"out.plan_obj_box_col_{seconds}s"], atol=1e-6)
        counted = VECTORS["in.fut_valid_flag"] == 1
        np.testing.assert_allclose(
            rate[counted].mean(), VECTORS[f"avg.plan_obj_box_col_{seconds}s"], atol=1e-6
        )


def test_one_car_ahead():
    box = np.array([[0, 8, 0, 2.0, 4.8, 1.5, -np.pi, 0, 0]])
    future = np.zeros((1, 34))
    future[0, 12:18] = 1
    grid = rasterise(box, future, VEHICLES)
    assert grid[0].sum() == 55
    rows, columns = np.nonzero(grid[0])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (79, 89, 98, 102)
    assert not rasterise(box, future, HUMANS).any()

    ahead = np.array([2.9, 3.0, 3.1, 8.0, 12.0, 12.1])
    path = np.stack([np.zeros(6), ahead], axis=1)
    beside = np.full((6, 2), 30.0)
    assert collisions(path, beside, grid).box.tolist() == [False, False, True, True, True, False]
    assert not collisions(path, path, grid).box.any()


def test_masked_steps_are_not_drawn():
    box = np.array([[0, 8, 0, 2.0, 4.8, 1.5, -np.pi, 0, 0]])
    future = np.zeros((1, 34))
    future[0, 12:18] = [1, 0, 1, 0, 0, 0]
    assert rasterise(box, future, VEHICLES).any(axis=(1, 2)).tolist() == [
        True,
        False,
        True,
        False,
        False,
        False,
    ]


def test_polygons_outside_the_grid_leave_it_empty():
    for corners in ([[-9, 3], [-5, 3], [-5, 9], [-9, 9]], [[3, 205], [9, 205], [9, 220], [3, 220]]):
        grid = np.zeros((200, 200), dtype=bool)
        fill(grid, np.array(corners))
        assert not grid.any()

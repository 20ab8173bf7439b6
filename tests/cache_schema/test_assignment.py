"""The assignment of least cost, against every assignment there is."""

import itertools

import numpy as np
import pytest

from cache_schema.assignment import assign


def test_the_greedy_choice_is_not_always_the_best():
    # Row 0 would take column 0 for 1, which leaves 100 for row 1: 2 + 1 is less.
    assert assign(np.array([[1.0, 2.0], [1.0, 100.0]])).tolist() == [1, 0]


def test_three_rows_exchange_their_columns_in_a_chain():
    cost = np.array([[1.0, 2.0, 9.0], [1.0, 9.0, 9.0], [9.0, 2.0, 4.0]])
    assert assign(cost).tolist() == [1, 0, 2]


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 5), (4, 4), (5, 6), (3, 7)])
def test_no_assignment_costs_less(rows, columns):
    rng = np.random.default_rng(rows * 10 + columns)
    for spread in (0.0, -3.0):
        for _ in range(20):
            cost = rng.integers(0, 9, (rows, columns)) + spread * rng.random((rows, columns))
            found = assign(cost)
            assert len(set(found.tolist())) == rows
            least = min(
                sum(cost[row, column] for row, column in enumerate(chosen))
                for chosen in itertools.permutations(range(columns), rows)
            )
            assert cost[np.arange(rows), found].sum() == pytest.approx(least, abs=1e-9)


def test_no_row_needs_no_column():
    assert assign(np.zeros((0, 30))).shape == (0,)


@pytest.mark.parametrize(
    ("cost", "message"), [(np.zeros((3, 2)), "3 rows"), (np.array([[np.nan, 1.0]]), "not finite")]
)
def test_what_has_no_assignment_is_refused(cost, message):
    with pytest.raises(ValueError, match=message):
        assign(cost)

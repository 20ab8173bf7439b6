import numpy as np
import pytest

from pipeline.teachers.latent_action_vlm.making.training_loop import (
    Recipe,
    Remembered,
    prefetched,
    rows_of,
)

RECIPE = Recipe(batch_size=4, seed=3)


def test_an_epoch_has_every_sample_once_but_for_the_last_few():
    first, second = ([rows_of(step, 14, RECIPE) for step in steps] for steps in (range(3), range(3, 6)))
    for epoch in (first, second):
        seen = np.concatenate(epoch)
        assert [len(rows) for rows in epoch] == [4, 4, 4]
        assert len({*seen.tolist()}) == 12
        assert {*seen.tolist()} <= {*range(14)}
    assert not np.array_equal(first, second)
    other = Recipe(batch_size=4, seed=4)
    assert not np.array_equal(first, [rows_of(step, 14, other) for step in range(3)])
    assert sorted(rows_of(5, 3, RECIPE)) == [0, 1, 2]


def test_batches_come_in_order_and_an_error_comes_with_its_own():
    def read(row):
        if row == 4:
            raise ValueError("the fifth")
        return row * 10

    batches = prefetched([np.array([2, 1]), np.array([3]), np.array([4])], read)
    found = [next(batches), next(batches)]
    assert [(rows.tolist(), samples) for rows, samples in found] == [([2, 1], [20, 10]), ([3], [30])]
    with pytest.raises(ValueError, match="the fifth"):
        next(batches)
    assert [*prefetched([], read)] == []


def test_so_many_samples_are_kept():
    asked = []
    read = Remembered(lambda row: asked.append(row) or row, limit=2)
    assert [read(row) for row in (1, 2, 3, 1, 2, 3)] == [1, 2, 3, 1, 2, 3]
    assert asked == [1, 2, 3, 3]

import numpy as np
import pytest

from student.loading.sampler import Sampler, share

LENGTHS = (40, 33, 57, 21)


def sampler(**changes):
    return Sampler(LENGTHS, **({"batch_size": 8, "seed": 3, "run_samples": 5, "window_batches": 3} | changes))


def rows_of(windows):
    return np.concatenate([rows for window in windows for rows in window])


@pytest.mark.parametrize("shuffle", ["frames", "runs"])
def test_every_epoch_has_every_sample_once_in_an_order_of_its_own_which_the_seed_decides(shuffle):
    epochs = [rows_of(sampler(shuffle=shuffle).windows(epoch)).tolist() for epoch in (1, 2, 1)]
    other = rows_of(sampler(shuffle=shuffle, seed=4).windows(1)).tolist()
    assert all(sorted(order) == list(range(151)) for order in (*epochs, other))
    assert epochs[0] == epochs[2] != epochs[1]
    assert other != epochs[0]


@pytest.mark.parametrize(
    ("frames", "batch", "steps"), [(234_769, 64, 3_669), (12_801, 32, 401), (12_832, 32, 401)]
)
def test_the_released_run_has_the_known_number_of_steps(frames, batch, steps):
    known = Sampler([frames], batch_size=batch, seed=0)
    assert known.steps == steps == len(known.windows(1))


@pytest.mark.parametrize("shuffle", ["frames", "runs"])
@pytest.mark.parametrize("done", [0, 1, 3, 7, 18, 19])
def test_what_is_left_of_an_epoch_is_its_end(shuffle, done):
    whole = [rows.tolist() for window in sampler(shuffle=shuffle).windows(2) for rows in window]
    left = [rows.tolist() for window in sampler(shuffle=shuffle).windows(2, done=done) for rows in window]
    assert len(whole) == 19
    assert left == whole[done:]


@pytest.mark.parametrize("processes", [1, 2, 3, 8])
def test_processes_share_every_batch_without_overlap_or_loss(processes):
    for window in sampler().windows(1):
        for rows in window:
            parts = [share(rows, process, processes) for process in range(processes)]
            assert sorted(np.concatenate(parts)) == sorted(rows)
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_window_of_runs_is_read_in_runs_of_neighbours():
    windows = sampler(shuffle="runs").windows(1)
    assert [sum(map(len, window)) for window in windows] == [24, 24, 24, 24, 24, 24, 7]
    stretches = [1 + np.count_nonzero(np.diff(np.sort(rows_of([window]))) != 1) for window in windows]
    # 24 frames in runs of 5 are 5 stretches, and a few more where a clip or the window cuts one.
    assert max(stretches) <= 10
    alone = sampler(shuffle="frames").windows(1)
    assert {len(window) for window in alone} == {1}


def test_runs_mix_nearly_as_well_as_a_permutation_of_all_frames():
    """Batches of a real size: how many clips one has, and how far its frames are moved."""
    lengths = [250] * 95
    met, moved, pairs = {}, {}, {}
    for shuffle in ("frames", "runs"):
        mixed = Sampler(lengths, batch_size=64, seed=0, shuffle=shuffle)
        batches = [rows for window in mixed.windows(1) for rows in window if len(rows) == 64]
        met[shuffle] = np.mean([len(np.unique(rows // 250)) for rows in batches])
        order = np.concatenate(batches)
        moved[shuffle] = np.mean(abs(np.argsort(order) - np.arange(len(order)))) / len(order)
        pairs[shuffle] = np.mean([np.count_nonzero(np.diff(np.sort(rows)) == 1) for rows in batches])
    # 64 frames drawn of 95 clips: 95 (1 - (94/95)^64) = 46.7 clips; a frame moves a third of the way.
    assert met["frames"] == pytest.approx(46.7, abs=0.5)
    assert moved["frames"] == pytest.approx(1 / 3, abs=0.01)
    assert met["runs"] > 0.75 * met["frames"]
    assert moved["runs"] == pytest.approx(1 / 3, abs=0.03)
    # Neighbours in one batch: 64^2 / 23,750 = 0.17 by chance; in runs its 64 are drawn of a window's 1,024.
    assert pairs["frames"] < 0.3
    assert pairs["runs"] < 64 * 63 / 1024

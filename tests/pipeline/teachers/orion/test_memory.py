"""Memory against numbers worked out by hand."""

import numpy as np
import torch

from pipeline.teachers.orion.network.memory import (
    EgoMotion,
    HistoryMemory,
    OrionMemory,
    QueryMemory,
    SignalMemory,
    product,
)
from pipeline.teachers.orion.presets import ORION_TINY_RANDOM


def ego_at(x: float, seconds: float, *, continued: bool = True) -> EgoMotion:
    """One slot, turned left by 90 degrees, at (x, 0, 0)."""
    pose = torch.tensor([[[0.0, -1, 0, x], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]])
    return EgoMotion(
        pose=pose,
        pose_inv=torch.linalg.inv(pose),
        timestamp=torch.tensor([seconds], dtype=torch.float64),
        continued=torch.tensor([continued]),
    )


def test_a_point_stays_in_the_world_while_the_ego_drives_on():
    first = ego_at(10, 1.0, continued=False)
    memory = QueryMemory.empty(1, 2, 1, 4, "cpu").recall(first)
    memory = memory.remember(torch.ones(1, 1, 4), torch.tensor([[[[2.0, 3, 1]]]]), first)
    assert memory.points[0, 0, 0].tolist() == [7, 2, 1]  # world: (10 - 3, 2, 1)
    seen = memory.recall(ego_at(15, 1.5))
    assert seen.points[0, 0, 0].tolist() == [2, 8, 1]  # five metres along world x are five along minus y here
    assert seen.times[0].tolist() == [0.5, 0.5]  # an empty entry ages like a real one
    assert seen.poses[0, 0, :3, 3].tolist() == [0, 5, 0]
    assert seen.contents[0].tolist() == [[1] * 4, [0] * 4]


def test_what_is_not_continued_is_zero_even_where_it_was_not_a_number():
    memory = QueryMemory.empty(1, 2, 1, 4, "cpu")
    memory.points.fill_(torch.nan)
    memory.contents.fill_(torch.nan)
    seen = memory.recall(ego_at(0, 9.0, continued=False))
    assert not any(tensor.any() for tensor in (seen.points, seen.contents, seen.poses, seen.times))


def test_the_newest_history_comes_first_and_the_oldest_leaves():
    memory = HistoryMemory.empty(1, 3, 1, "cpu")
    for second in (1.0, 2.0):
        ego = ego_at(0, second)
        memory = memory.recall(ego).remember(torch.full((1, 2, 1), second), ego)
    assert memory.tokens.flatten().tolist() == [2, 2, 1]
    assert memory.times.flatten().tolist() == [2, 2, 1]


def test_signals_of_unseen_frames_stay_zero():
    memory = SignalMemory.empty(1, 2, 19, "cpu")
    present = torch.arange(19, dtype=torch.float64)[None]
    assert not memory.recall(present, ego_at(0, 1.0)).signals.any()
    memory = memory.remember(present, ego_at(0, 1.0, continued=False))
    seen = memory.recall(present + 1, ego_at(0, 1.1)).signals[0]
    assert seen[0].tolist() == [0, -1, -1, -1, *range(4, 18), -1]  # position and yaw are differences
    assert not seen[1].any()
    assert not memory.recall(present, ego_at(0, 9.0, continued=False)).signals.any()


def test_two_seconds_end_a_memory_and_less_does_not():
    memory = OrionMemory.empty(ORION_TINY_RANDOM.config, slots=4, device="cpu")
    times = torch.tensor([0.1, 1.999, 2.0, 0.1], dtype=torch.float64)
    pose = torch.eye(4).expand(4, 4, 4)
    same = torch.tensor([True, True, True, False])
    assert memory.ego_motion(pose, pose, times, same).continued.tolist() == [True, True, False, False]


def test_poses_are_multiplied_in_one_order_everywhere():
    """Kilometres in float32: another order of the same sums is off by a tenth of a millimetre and more."""
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(2, 50, 4, 4)).astype(np.float32)
    a[:, :3, 3] *= 3000
    b[:, :3, 3] *= 3000
    expected = np.zeros((50, 4, 4), np.float32)
    for k in range(4):
        expected = expected + a[:, :, k, None] * b[:, k, None, :]
    found = product(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    assert np.array_equal(found, expected)
    backwards = np.zeros((50, 4, 4), np.float32)
    for k in reversed(range(4)):
        backwards = backwards + a[:, :, k, None] * b[:, k, None, :]
    assert np.abs(found - backwards).max() > 1e-4

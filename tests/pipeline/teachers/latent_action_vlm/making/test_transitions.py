"""Transitions of clips: times, poses and motion, against hand-computed values and the planning target."""

import shutil

import numpy as np
import pytest

from cache_schema.vocabulary.driving import SPEED
from pipeline.bench2drive.source import Bench2Drive
from pipeline.teachers.latent_action_vlm.making.clips.transitions import (
    CONDITION,
    CONDITION_WIDTH,
    Transitions,
    condition_tokens,
    frames_after,
    read_all,
    relative_pose,
)


@pytest.fixture(scope="module")
def read(driven):
    return read_all(Bench2Drive(driven).select().clips, 10.0)[0]


def test_a_second_later_is_right_to_half_a_frame():
    times = np.array([0.0, 0.1, 0.2, 0.5, 1.04, 1.1, 2.0])
    assert frames_after(times, 1.0, 10.0).tolist() == [4, 5, -1, -1, 6, -1, -1]
    assert frames_after(np.array([3.0]), 1.0, 10.0).tolist() == [-1]
    assert frames_after(np.arange(33) / 10, 1.0, 10.0).tolist() == [*range(10, 33), *[-1] * 10]


def test_a_pose_after_a_turn_to_the_left():
    """The ego looks along the world's x, drives 3 m on and 4 m to the left, and turns left by a quarter."""
    lidar2ego = np.array([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    turned = np.array([[0.0, -1, 0, 3], [1, 0, 0, 4], [0, 0, 1, 0], [0, 0, 0, 1]])
    moved = relative_pose(np.stack([lidar2ego, turned @ lidar2ego]), np.array([1, 1]))
    np.testing.assert_allclose(moved, [[3, 4, np.pi / 2], [0, 0, 0]], atol=1e-12)


def test_conditions_are_where_the_planning_target_says(driven, read):
    """Its offsets are of 0.5 s, x right and y forward."""
    for clip, transitions in zip(Bench2Drive(driven).select().clips, read, strict=True):
        truth = clip.open().ground_truth()
        whole = transitions.later >= 0
        places = truth["ego_trajectory"].cumsum(1)[whole]
        found = transitions.condition[whole]
        np.testing.assert_allclose(found[:, :2], places[:, 0, ::-1] * (1, -1), atol=1e-5)
        np.testing.assert_allclose(found[:, 3:5], places[:, 1, ::-1] * (1, -1), atol=1e-5)
        speed = truth["can_bus"][:, SPEED]
        gained = speed[transitions.later[whole]] - speed[whole]
        np.testing.assert_allclose(transitions.motion[whole, 1], gained)
        np.testing.assert_allclose(transitions.motion[whole, 0], found[:, 5])
        assert transitions.later[whole].tolist() == (np.flatnonzero(whole) + 10).tolist()


def test_samples_are_the_whole_transitions_of_all_clips(read):
    samples = Transitions(read)
    assert len(samples) == 3 * 23
    earlier, later = samples.pairs[23 + 5]
    assert samples.images[earlier] == read[1].images[5]
    assert samples.images[later] == read[1].images[15]
    np.testing.assert_array_equal(samples.condition[23 + 5], read[1].condition[5])
    assert samples.digest() != Transitions(read[::-1]).digest()


def test_condition_tokens_have_channels_of_their_own():
    numbers, mean, std = np.arange(2.0, 11.0)[None], np.ones(CONDITION), np.full(CONDITION, 2.0)
    tokens = condition_tokens(numbers, np.array([3]), mean, std)
    assert tokens.shape == (1, 3, CONDITION_WIDTH)
    expected = np.zeros((3, CONDITION_WIDTH))
    expected[0, :3], expected[1, 3:6], expected[2, 6:9] = [0.5, 1, 1.5], [2, 2.5, 3], [3.5, 4, 4.5]
    expected[2, 9 + 3] = 1
    np.testing.assert_array_equal(tokens[0], expected)


def test_a_clip_without_an_image_is_named(driven, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(driven, root)
    gone = sorted((root / "v1").iterdir())[1]
    (gone / "camera" / "rgb_front" / "00007.jpg").unlink()
    found, failed = read_all(Bench2Drive(root).select().clips, 10.0)
    assert len(found) == 2
    assert gone.name not in {clip.clip for clip in found}
    assert [left_out.clip for left_out in failed] == [gone.name]
    assert "00007.jpg does not exist" in failed[0].reason

import json

import numpy as np
import pytest

from cache_schema.vocabulary.driving import COMMANDS
from cache_schema.vocabulary.route import RoadOption, command_of, downsample
from tests.paths import GOLDEN

FOLLOW, LEFT, CHANGE = RoadOption.LANEFOLLOW, RoadOption.LEFT, RoadOption.CHANGELANELEFT


def along(options):
    """A straight route with a node a metre."""
    return np.stack([np.arange(len(options)), np.zeros(len(options))], axis=1), options


@pytest.mark.parametrize(
    "path", sorted((GOLDEN / "closed_loop/agent").glob("drive_*.json")), ids=lambda path: path.stem
)
def test_recorded_routes(path):
    drive = json.loads(path.read_text())
    dense = np.array(drive["dense_route"])
    assert downsample(dense[:, :2], dense[:, 2].astype(int)).tolist() == drive["downsampled_ids"]


def test_a_straight_has_a_node_after_more_than_50_m():
    # The way is 51 m at node 52, since the segment before a node counts from the node after it on.
    assert downsample(*along([FOLLOW] * 120)).tolist() == [0, 52, 104, 119]


def test_a_new_option_is_a_node():
    assert downsample(*along([FOLLOW] * 3 + [LEFT] * 3 + [FOLLOW] * 3)).tolist() == [0, 3, 6, 8]


def test_every_node_of_a_lane_change_is_kept_and_the_first_after_it_is_not():
    assert downsample(*along([FOLLOW] * 2 + [CHANGE] * 3 + [FOLLOW] * 4)).tolist() == [0, 2, 3, 4, 8]


def test_commands_are_options_less_one():
    names = ["LEFT", "RIGHT", "STRAIGHT", "LANEFOLLOW", "CHANGELANELEFT", "CHANGELANERIGHT"]
    assert [command_of(RoadOption[name]) for name in names] == list(range(len(COMMANDS)))
    assert COMMANDS[command_of(RoadOption.VOID)] == "follow"

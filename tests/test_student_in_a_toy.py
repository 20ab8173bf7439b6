"""A student drives in the toy, through agent file and server, by what the toy's cameras see."""

import numpy as np

from pipeline.bench2drive.rehearsal.leaderboard import drive_route
from pipeline.bench2drive.rehearsal.toys import draw_toy
from student.serving.server import serving
from tests.test_rehearsal import AGENT_FILE, ANY_PORT, shortened
from tests.test_served_students import Served, opened, served  # noqa: F401 - a fixture

TICKS = 12


def test_the_same_to_the_bit(served: Served):  # noqa: F811
    _, policy = opened(served, "orion-lite", slots=1)
    with serving(policy, ANY_PORT, mode="corrected", every=2) as address:
        one, again, another = (
            drive_route(AGENT_FILE, str(address), shortened(draw_toy(0, seed=seed), TICKS))
            for seed in (4, 4, 5)
        )
    assert len(one.plans) == TICKS
    assert np.isfinite(one.plans).all()
    for name in ("plans", "controls", "poses"):
        np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
    assert not (one.plans == another.plans).any()

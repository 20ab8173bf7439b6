"""A clip through agent file, socket and server: the bits of extraction and of the student on its dataset."""

import threading

import numpy as np
import pytest

from pipeline.bench2drive.rehearsal.leaderboard import drive_route
from pipeline.bench2drive.rehearsal.toys import draw_toy
from student.serving.server import serving
from tests.observed import observations
from tests.student.serving.simulator import AGENT_FILE, ANY_PORT, load_agent, new_agent
from tests.test_rehearsal import shortened
from tests.test_served_students import STUDENTS, clips_of, expected, opened, served  # noqa: F401


def replayed(agent, data, clip):
    """Plans (frames, 6, 2) that an agent is answered for the frames of a clip."""
    plans = []
    for frame, seen in enumerate(observations(data, clip)):
        fields = {name: value for name, value in vars(seen).items() if name != "clip"}
        agent.run_step({"REPLAY": (frame, fields)}, frame / 20)
        plans.append(agent.last_answer["plan"])
    agent.destroy()
    return np.array(plans)


@pytest.mark.parametrize("system", STUDENTS)
def test_a_clip_alone_and_beside_seven_others(served, system, monkeypatch):  # noqa: F811
    module = load_agent(monkeypatch)
    clips = clips_of(served)
    trained, policy = opened(served, system, slots=8)
    with serving(policy, ANY_PORT, mode="parity", allow_replay=True) as address:
        alone = replayed(new_agent(module, address), served.data, clips[0])
        np.testing.assert_array_equal(alone, expected(trained, clips[0], slot=0, slots=8))
        # An agent gets the first free slot, as a clip has in extraction.
        agents = [new_agent(module, address, save_name=f"route_{slot}") for slot in range(8)]
        names = [*clips, *(clips * 2)[: 8 - len(clips)]]
        plans = {}

        def drive(slot):
            plans[slot] = replayed(agents[slot], served.data, names[slot])

        threads = [threading.Thread(target=drive, args=(slot,)) for slot in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(plans) == 8
    for slot, clip in enumerate(clips):
        np.testing.assert_array_equal(plans[slot], expected(trained, clip, slot=slot, slots=8))


def test_a_student_drives_the_toy_the_same_to_the_bit(served):  # noqa: F811
    _, policy = opened(served, "orion-lite", slots=1)
    with serving(policy, ANY_PORT, mode="corrected", every=2) as address:
        one, other = (
            drive_route(AGENT_FILE, str(address), shortened(draw_toy(0, seed=seed), 12)) for seed in (4, 4)
        )
        another = drive_route(AGENT_FILE, str(address), shortened(draw_toy(0, seed=5), 12))
    assert len(one.plans) == 12
    np.testing.assert_array_equal(one.plans, other.plans)
    np.testing.assert_array_equal(one.controls, other.controls)
    np.testing.assert_array_equal(one.poses, other.poses)
    assert np.isfinite(one.plans).all()
    assert not (one.plans == another.plans).any()

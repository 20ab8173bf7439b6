"""A clip that is replayed by the agent file, over a socket, gets the student's plans to the bit."""

import threading
from pathlib import Path

import numpy as np
import pytest

from cache_schema.vocabulary.observation import Observation
from student.serving.address import Address
from student.serving.server import serving
from tests.observed import observations
from tests.student.serving.simulator import load_agent, new_agent
from tests.test_served_students import (
    STUDENTS,
    Served,
    clips_of,
    driven,
    expected,
    opened,
    served,  # noqa: F401 - a fixture
)


def replayed(observation: Observation) -> dict[str, tuple[int, object]]:
    """What the fake leaderboard hands to an agent."""
    names = (
        "jpegs",
        "lidar2cam",
        "intrinsic",
        "ego_pose",
        "ego_pose_inv",
        "timestamp_s",
        "command",
        "can_bus",
    )
    return {"REPLAY": (0, {name: getattr(observation, name) for name in names})}


@pytest.mark.parametrize("slots", [1, 8])
@pytest.mark.parametrize("system", STUDENTS)
def test_agents_get_the_plans_of_the_student(
    served: Served,  # noqa: F811
    system: str,
    slots: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    module = load_agent(monkeypatch)
    trained, policy = opened(served, system, slots=slots)
    clips = clips_of(served)
    names = [clips[slot % len(clips)] for slot in range(slots)]
    plans: list[list[object]] = [[] for _ in names]
    address = Address.parse(f"unix://{tmp_path}/socket")
    with serving(policy, address, mode="parity", allow_replay=True):
        agents = [new_agent(module, str(address), save_name=f"drive{slot}") for slot in range(slots)]

        def drive(slot: int) -> None:
            for observation in observations(served.data, names[slot]):
                agents[slot].run_step(replayed(observation), 0.0)
                plans[slot].append(agents[slot].last_answer["plan"])
            agents[slot].destroy()

        threads = [threading.Thread(target=drive, args=(slot,)) for slot in range(slots)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for slot, name in enumerate(clips[:slots]):
        told = expected(trained, name, slot=slot, slots=slots)
        np.testing.assert_array_equal(np.array(plans[slot]), told.astype(np.float64))
    # The other slots, which no dataset has, as without agents and server: bits may depend on the slot.
    together = driven(
        policy, [observations(served.data, name, f"direct{at}") for at, name in enumerate(names)]
    )
    for slot in range(slots):
        np.testing.assert_array_equal(np.array(plans[slot]), together[slot].astype(np.float64))

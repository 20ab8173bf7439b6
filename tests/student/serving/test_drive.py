"""Whole drives: agent file, socket, server, and what is driven by."""

import json

import numpy as np
import pytest

from student.closed_loop.rig import RIG
from student.serving.policy import ConstantVelocity
from student.serving.server import serving
from tests.paths import GOLDEN
from tests.student.serving.remembering import Remembering, plans
from tests.student.serving.simulator import (
    ANY_PORT,
    SAVE_NAME,
    jpegs,
    load_agent,
    new_agent,
    plan_of,
    recorded,
)

DRIVES = sorted((GOLDEN / "closed_loop" / "agent").glob("drive_*.json"))


class Recorded:
    """Plans as ORION made them in a recorded drive, float32."""

    slots = 1

    def __init__(self, plans):
        self.identity, self.seconds = {"student": "recorded"}, {}
        self.plans = np.array(plans, dtype=np.float32)
        self.observations = []

    def prepare(self, observation):
        self.observations.append(observation)
        return self.plans[len(self.observations) - 1]

    def begin(self):
        return None

    def step(self, inputs, state):
        return np.array(inputs), state


def sensed(values):
    """Input of an agent at a tick of a recorded drive; images apart."""
    imu = [np.nan if value is None else value for value in values["imu"]]
    return {
        "GPS": (7, np.array([*values["gps"], 0.0][:3])),
        "IMU": (7, np.array(imu)),
        "SPEED": (7, {"speed": values["speed"]}),
    }


@pytest.mark.parametrize("file", DRIVES, ids=lambda file: file.stem)
def test_a_recorded_drive_gets_the_controls_of_the_reference_agent(file, monkeypatch):
    drive = json.loads(file.read_text())
    ticks = drive["ticks"]
    policy = Recorded([tick["in"]["plan"] for tick in ticks])
    module = load_agent(monkeypatch)
    monkeypatch.setattr(module, "import_opencv", lambda: None)
    monkeypatch.setattr(module, "compressed", lambda image: image)
    with serving(policy, ANY_PORT, mode="parity") as address:
        agent = new_agent(module, str(address), plan_of(drive["plan_gps"], drive["plan_world"]))
        images = {camera: (7, jpeg) for camera, jpeg in zip(RIG.cameras, jpegs("x"), strict=True)}
        for tick in ticks:
            control = agent.run_step(sensed(tick["in"]) | images, 0.0)
            told, seen = tick["out"], policy.observations[-1]
            sent = [control.steer, control.throttle, control.brake]
            assert sent == pytest.approx(told["control"], abs=1e-6)
            assert agent.last_answer["command"] == seen.command == told["command_index"]
            assert agent.last_answer["plan"] == tick["in"]["plan"]
            np.testing.assert_allclose(seen.can_bus, told["can_bus"], rtol=1e-8, atol=1e-6)
            np.testing.assert_allclose(seen.ego_pose, told["ego_pose"], rtol=1e-8, atol=1e-6)
            assert seen.timestamp_s == pytest.approx(told["timestamp"])
        agent.destroy()


def test_constant_velocity_drives(monkeypatch):
    module = load_agent(monkeypatch)
    with serving(ConstantVelocity(1), ANY_PORT, mode="parity", allow_replay=True) as address:
        agent = new_agent(module, str(address))
        control = agent.run_step({"REPLAY": (7, recorded("a", speed_m_s=4.0))}, 0.0)
        assert agent.last_answer["plan"] == [[0.0, 2.0 * step] for step in range(1, 7)]
        assert (control.steer, control.brake) == (0.0, 0.0)
        agent.destroy()


def test_a_replay_arrives_as_it_is_and_is_remembered(monkeypatch):
    module = load_agent(monkeypatch)
    policy = Remembering(1)
    with serving(policy, ANY_PORT, mode="parity", allow_replay=True) as address:
        agent = new_agent(module, str(address))
        for step in range(3):
            agent.run_step({"REPLAY": (7, recorded(step))}, 0.0)
            assert agent.last_answer["plan"] == plans(*range(step + 1))[-1]
        agent.destroy()
        agent = new_agent(module, str(address))
        agent.run_step({"REPLAY": (7, recorded(0))}, 0.0)
        assert agent.last_answer["plan"] == plans(0)[0]
        agent.destroy()
    drives = [round[0] for round in policy.rounds]
    assert len(set(drives)) == 2
    assert all(drive.startswith(SAVE_NAME) for drive in drives)

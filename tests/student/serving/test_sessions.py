"""Sessions: they survive broken connections, and have slots."""

import asyncio
import json
import threading
import time

import pytest

from student.serving import sessions
from student.serving.messages import PROTOCOL, Hello
from student.serving.server import serving
from tests.student.serving.remembering import Remembering, plans
from tests.student.serving.simulator import (
    ANY_PORT,
    SAVE_NAME,
    Wire,
    begun,
    jpegs,
    load_agent,
    new_agent,
    recorded,
    resumed,
    tick_header,
)


def test_an_answered_step_is_answered_again():
    policy = Remembering(1)
    with serving(policy, ANY_PORT, mode="parity") as address, begun(address) as wire:
        first = wire.tick(0, "a")
        assert first["plan"] == plans("a")[0]
        assert resumed(wire)["session"] == wire.session
        again = wire.tick(0, "a", number=wire.number)
        assert again == first
        assert wire.tick(1, "b")["plan"] == plans("a", "b")[1]
    assert len(policy.rounds) == 2


def test_a_step_under_way_is_not_done_twice():
    policy = Remembering(1)
    with serving(policy, ANY_PORT, mode="parity") as address, begun(address) as wire:
        policy.gate.clear()
        wire.request(tick_header(0), jpegs("a"))
        assert policy.begun.acquire(timeout=60)
        resumed(wire)
        wire.request(tick_header(0), jpegs("a"), number=wire.number)
        policy.gate.set()
        assert wire.receive()["plan"] == plans("a")[0]
        assert wire.tick(1, "b")["plan"] == plans("a", "b")[1]
    assert len(policy.rounds) == 2


def test_a_new_connection_takes_the_place_of_the_old():
    with serving(Remembering(1), ANY_PORT, mode="parity") as address, begun(address) as wire:
        old, wire.socket = wire.socket, None
        with old:
            resumed(wire)
            assert old.recv(1) == b""
        assert wire.tick(0, "a")["plan"] == plans("a")[0]


def test_begin_and_its_answer_survive_a_broken_connection():
    policy = Remembering(1)
    with serving(policy, ANY_PORT, mode="parity") as address, begun(address) as wire:
        resumed(wire)
        wire.number -= 1
        assert wire.begin()["type"] == "began"
        assert wire.tick(0, "a")["plan"] == plans("a")[0]


def test_an_agent_goes_on_after_its_connection_broke(monkeypatch):
    module = load_agent(monkeypatch)
    policy = Remembering(1)
    with serving(policy, ANY_PORT, mode="parity", allow_replay=True) as address:
        agent = new_agent(module, str(address))
        received = []
        for step in range(6):
            if step == 2:
                agent.client.socket.close()
            if step == 4:  # the answer is on its way
                receive = agent.client._receive

                def broken(client=agent.client, receive=receive):
                    receive()
                    client._receive = receive
                    raise ConnectionResetError("in a test")

                agent.client._receive = broken
            agent.run_step({"REPLAY": (0, recorded(step))}, 0.0)
            received.append(agent.last_answer["plan"])
        agent.destroy()
    assert received == plans(*range(6))
    assert len(policy.rounds) == 6


def test_a_restarted_server_has_forgotten_the_route(monkeypatch):
    module = load_agent(monkeypatch)
    with serving(Remembering(1), ANY_PORT, mode="parity", allow_replay=True) as address:
        agent = new_agent(module, str(address))
        agent.run_step({"REPLAY": (0, recorded(0))}, 0.0)
    with serving(Remembering(1), address, mode="parity", allow_replay=True):
        with pytest.raises(module.ServerGone, match="gone"):
            agent.run_step({"REPLAY": (0, recorded(1))}, 0.0)
        agent.destroy()
        new_agent(module, str(address)).destroy()


def test_an_agent_waits_for_a_server_that_starts_later(monkeypatch):
    module = load_agent(monkeypatch)
    with serving(Remembering(1), ANY_PORT, mode="parity", allow_replay=True) as address:
        pass
    agents = []
    waiting = threading.Thread(target=lambda: agents.append(new_agent(module, str(address))))
    waiting.start()
    with serving(Remembering(1), address, mode="parity", allow_replay=True):
        waiting.join(60)
        agents[0].destroy()


def test_an_agent_gives_up_without_a_server_and_never_drives(monkeypatch):
    module = load_agent(monkeypatch)
    monkeypatch.setattr(module, "RECONNECT_S", 0.3)
    with serving(Remembering(1), ANY_PORT, mode="parity", allow_replay=True) as address:
        agent = new_agent(module, str(address))
    with pytest.raises(module.ServerLost, match="teachonce serve"):
        agent.run_step({"REPLAY": (0, recorded(0))}, 0.0)
    agent.destroy()


@pytest.mark.parametrize("number", [1, 3, 4])
def test_requests_keep_their_order(number):
    with serving(Remembering(1), ANY_PORT, mode="parity") as address, begun(address) as wire:
        wire.tick(0, "a")
        assert wire.number == 2
        wire.connect()
        wire.hello(resume=True)
        if number == 3:
            wire.tick(1, "b", number=3)
            number = 2
        assert wire.tick(1, "b", number=number)["code"] == "protocol"
        assert resumed(wire)["code"] == "gone"


@pytest.mark.parametrize("step", [0, 2])
def test_steps_keep_their_order(step):
    with serving(Remembering(1), ANY_PORT, mode="parity") as address, begun(address) as wire:
        wire.tick(0, "a")
        assert wire.tick(step, "b")["code"] == "protocol"


def test_more_agents_than_slots_wait_for_one():
    with (
        serving(Remembering(1), ANY_PORT, mode="parity") as address,
        begun(address) as first,
        Wire(address) as second,
    ):
        answers = []
        waiting = threading.Thread(target=lambda: answers.append(second.hello()))
        waiting.start()
        first.tick(0, "a")
        assert not answers
        assert first.end()["type"] == "ended"
        waiting.join(60)
        assert answers[0]["type"] == "ready"
        second.begin()
        assert second.tick(0, "a")["plan"] == plans("a")[0]


def test_an_agent_that_stops_waiting_takes_no_slot(monkeypatch):
    monkeypatch.setattr(sessions, "YIELD_S", 0.1)
    monkeypatch.setattr(sessions, "SWEEP_S", 0.02)
    with serving(Remembering(1), ANY_PORT, mode="parity") as address, begun(address) as first:
        for _ in range(5):
            with Wire(address) as waiting:
                waiting.socket.settimeout(0.05)
                with pytest.raises(TimeoutError):
                    waiting.hello()
        first.close()
        time.sleep(0.5)  # nobody waits any more: the slot is kept
        assert resumed(first)["type"] == "ready"
        first.end()
        begun(address).close()


def test_a_slot_that_comes_as_the_agent_leaves_is_free_again():
    def hello(session):
        return Hello(
            type="hello", protocol=PROTOCOL, token=None, session=session * 32, resume=False, agent="0" * 64
        )

    async def run():
        all_sessions = sessions.Sessions(1, lambda session, reason: None)
        first = await all_sessions.admit(hello("1"))
        second = asyncio.create_task(all_sessions.admit(hello("2")))
        await asyncio.sleep(0)
        all_sessions.drop(first, "end")
        second.cancel()
        await asyncio.wait({second})
        assert second.cancelled()
        return await asyncio.wait_for(all_sessions.admit(hello("3")), 60)

    assert asyncio.run(run()).slot == 0


class Slow(Remembering):
    """Prepares images that are noted as slow only when it is let."""

    def __init__(self, slots):
        super().__init__(slots)
        self.prepares, self.let, self.prepared = (threading.Event() for _ in range(3))

    def prepare(self, observation):
        if b"slow" not in observation.jpegs["CAM_FRONT"]:
            return super().prepare(observation)
        self.prepares.set()
        assert self.let.wait(60)
        self.prepared.set()
        return super().prepare(observation)


def test_what_a_lost_agent_left_does_not_reach_the_next_in_its_slot(monkeypatch):
    monkeypatch.setattr(sessions, "YIELD_S", 0.1)
    monkeypatch.setattr(sessions, "SWEEP_S", 0.02)
    policy = Slow(2)
    with (
        serving(policy, ANY_PORT, mode="parity") as address,
        begun(address, "lost") as lost,
        begun(address, "other") as other,
    ):
        lost.request(tick_header(0), jpegs("slow"))
        assert policy.prepares.wait(60)
        resumed(lost)
        lost.close()
        with begun(address, "next") as following:  # it waits for the slot
            assert following.tick(0, "a")["plan"] == plans("a")[0]
            policy.let.set()
            assert policy.prepared.wait(60)
            other.tick(0, "x")
            assert following.tick(1, "b")["plan"] == plans("a", "b")[1]
    drives = {drive.partition("#")[0] for round in policy.rounds for drive in round if drive}
    assert drives == {"next", "other"}


def test_a_lost_agent_yields_its_slot_to_one_that_waits(monkeypatch):
    monkeypatch.setattr(sessions, "YIELD_S", 0.5)
    monkeypatch.setattr(sessions, "SWEEP_S", 0.05)
    with serving(Remembering(1), ANY_PORT, mode="parity") as address, begun(address) as lost:
        lost.tick(0, "a")
        lost.close()
        with begun(address) as second:  # it waits for the slot
            assert resumed(lost)["code"] == "gone"
            assert second.tick(0, "b")["plan"] == plans("b")[0]


def test_a_lost_agent_keeps_its_slot_where_nobody_waits(monkeypatch):
    monkeypatch.setattr(sessions, "YIELD_S", 0.1)
    monkeypatch.setattr(sessions, "SWEEP_S", 0.02)
    with serving(Remembering(1), ANY_PORT, mode="parity") as address, begun(address) as wire:
        wire.tick(0, "a")
        wire.close()
        time.sleep(0.5)
        assert resumed(wire)["type"] == "ready"
        assert wire.tick(1, "b")["plan"] == plans("a", "b")[1]


def test_agents_that_do_nothing_lose_their_slots(monkeypatch, tmp_path):
    monkeypatch.setattr(sessions, "BEGIN_S", 0.2)
    monkeypatch.setattr(sessions, "KEPT_S", 0.2)
    monkeypatch.setattr(sessions, "SWEEP_S", 0.02)
    log = tmp_path / "drives.jsonl"
    with (
        serving(Remembering(2), ANY_PORT, mode="parity", log=log) as address,
        Wire(address) as silent,
        begun(address) as wire,
    ):
        silent.hello()
        wire.close()
        while log.read_text().count('"end"') < 2:
            time.sleep(0.02)
        assert resumed(silent)["code"] == "gone"
        assert resumed(wire)["code"] == "gone"


def test_the_log_says_what_was_driven(tmp_path):
    log = tmp_path / "drives.jsonl"
    with (
        serving(Remembering(2), ANY_PORT, mode="corrected", every=2, log=log) as address,
        begun(address) as wire,
    ):
        wire.tick(0, "a")
        wire.ask(tick_header(1) | {"cameras": []})
        wire.end()
    events = [json.loads(line) for line in log.read_text().splitlines()]
    assert [event["event"] for event in events] == ["start", "begin", "tick", "tick", "end"]
    assert (
        events[0]
        | {
            "address": str(address),
            "identity": {"student": "remembering"},
            "mode": "corrected",
            "every": 2,
            "allow_replay": False,
        }
        == events[0]
    )
    assert {event["save_name"] for event in events[1:]} == {SAVE_NAME}
    assert [event["step"] for event in events[2:4]] == [0, 1]
    assert set(events[2]["ms"]) == {"prepare", "queue", "step", "memory", "total"}
    assert events[2]["ms"]["memory"] == 250.0
    assert set(events[3]["ms"]) == {"total"}

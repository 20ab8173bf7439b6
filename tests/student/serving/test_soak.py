"""Eight agents drive while servers and agents are killed, connections break, and others send garbage.

No answer may be wrong, no agent may wait for ever, and no session may be lost but by a restart.
"""

import json
import random
import struct
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import dataclass, field

import psutil
import pytest

from student.serving.address import Address
from student.serving.messages import LARGEST_BLOB, LONGEST_HEADER, packed
from tests.paths import ROOT
from tests.student.serving.remembering import after, plan_after
from tests.student.serving.simulator import SAVE_NAME, Wire, jpegs, load_agent, plan_rows, tick_header

AGENTS = 8
SLOTS = 2 * AGENTS
"""Sessions of killed agents keep theirs for a while."""
PROGRAM = """
import sys
from student.serving import sessions
from student.serving.address import Address
from student.serving.server import serve
from tests.student.serving.remembering import Remembering

class Forgetful(list):
    append = lambda self, item: None

sessions.YIELD_S = 5.0
policy = Remembering({slots})
policy.rounds = Forgetful()
serve(policy, Address.parse({address!r}), mode="parity")
"""


class Server:
    """A server process that can be killed, and started again at the same address."""

    def __init__(self, address):
        self.address, self.restarts, self.process = address, 0, None
        self.start()

    def start(self):
        program = PROGRAM.format(slots=SLOTS, address=str(self.address))
        self.process = subprocess.Popen(
            [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout.readline().startswith("ready ")

    def kill(self):
        self.restarts += 1
        self.process.kill()
        self.process.wait()
        self.restarts += 1
        self.process.stdout.close()

    def memory(self):
        return psutil.Process(self.process.pid).memory_info().rss


@dataclass
class Soak:
    """What the agents do, until they have done enough."""

    module: object
    server: Server
    kills: int
    """Of agents."""
    ticks: int
    """All agents together."""
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[BaseException] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what):
        with self.lock:
            self.counts[what] += 1

    def enough(self):
        return self.faults or (self.counts["tick"] >= self.ticks and self.counts["kill"] >= self.kills)

    def agent(self, seed):
        rng = random.Random(seed)
        try:
            while not self.enough():
                restarts = self.server.restarts
                try:
                    self.drive(rng)
                except self.module.ServerGone:
                    assert self.server.restarts > restarts
                    self.count("gone")
        except Exception as fault:  # noqa: BLE001 - the test reports it
            self.faults.append(fault)

    def drive(self, rng):
        client = self.module.Client(str(self.server.address))
        client.connect()
        client.ask({"type": "begin", "save_name": SAVE_NAME}, [json.dumps(plan_rows()).encode()])
        memory = b""
        for step in range(rng.randint(3, 40)):
            images = jpegs(rng.random())
            memory = after(memory, images)
            event = rng.random()
            if event < 0.03:
                self.count("break")
                client.socket.close()
            elif event < 0.045:  # killed, somewhere in a message
                whole = packed({"number": client.number + 1} | tick_header(step), images)
                client.socket.sendall(whole[: rng.randrange(len(whole))])
                client.socket.close()
                self.count("kill")
                return
            answer = client.ask(tick_header(step), images)
            assert answer["plan"] == plan_after(memory).tolist()
            assert answer["step"] == step
            self.count("tick")
        client.end()

    def run(self, first_seed):
        seeds = range(first_seed, first_seed + AGENTS)
        agents = [threading.Thread(target=self.agent, args=(seed,), daemon=True) for seed in seeds]
        for agent in agents:
            agent.start()
        return agents


def garbage(rng):
    """Bytes that are no message, or not one at this place."""
    tick = packed({"number": 1} | tick_header(0), jpegs("a"))
    text = json.dumps({"type": "tick", "blobs": [LARGEST_BLOB] * 9}).encode()
    kind = rng.randrange(7)
    if kind == 0:
        return rng.randbytes(rng.randrange(1, 2000))
    if kind == 1:
        return struct.pack(">I", rng.randrange(LONGEST_HEADER + 1, 2**32))
    if kind == 2:
        return struct.pack(">I", len(text)) + text
    if kind == 3:
        return tick[: rng.randrange(len(tick))]
    if kind == 4:
        place = rng.randrange(4, 400)
        return tick[:place] + rng.randbytes(1) + tick[place + 1 :]
    if kind == 5:
        return b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    return struct.pack(">I", 60000) + b"[" * 60000


def throw(address, rng):
    """Send garbage, before hello or after it, and see the connection closed, whatever was said before."""
    with Wire(address) as wire:
        if rng.random() < 0.5:
            wire.hello()
        try:
            wire.socket.sendall(garbage(rng))
            wire.socket.shutdown(1)
            while wire.socket.recv(65536):
                pass
        except (BrokenPipeError, ConnectionResetError):
            pass


def soak(monkeypatch, tmp_path, *, server_kills, agent_kills, messages, ticks):
    rng = random.Random(0)
    module = load_agent(monkeypatch)
    server = Server(Address.parse(f"unix://{tmp_path}/socket"))
    try:
        driving = Soak(module, server, agent_kills, ticks)
        agents = driving.run(0)
        for _ in range(server_kills):
            goal = driving.counts["tick"] + ticks // (server_kills + 1)
            while driving.counts["tick"] < goal and not driving.enough():
                throw(server.address, rng)
            server.kill()
            server.start()
        for agent in agents:
            agent.join()
        assert not driving.faults
        assert driving.counts["gone"] >= min(server_kills, 1)

        # Now without restarts: what a server receives does not stay.
        memory = server.memory()
        driving = Soak(module, server, agent_kills, ticks)
        agents = driving.run(1000)
        for _ in range(messages):
            throw(server.address, rng)
        for agent in agents:
            agent.join()
        assert not driving.faults
        assert driving.counts["gone"] == 0
        assert server.memory() - memory < driving.counts["tick"] * sum(map(len, jpegs("a"))) / 5
    finally:
        server.kill()


def test_a_short_soak(monkeypatch, tmp_path):
    soak(monkeypatch, tmp_path, server_kills=1, agent_kills=4, messages=40, ticks=400)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_long_soak(monkeypatch, tmp_path):
    soak(monkeypatch, tmp_path, server_kills=50, agent_kills=50, messages=2000, ticks=10000)

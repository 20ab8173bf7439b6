"""What a server answers, whom it trusts, and what one agent can do to others."""

import os
import random
import signal
import stat
import subprocess
import sys
import threading

import numpy as np
import pytest

from cache_schema.errors import RequestError
from student.closed_loop.rig import RIG
from student.serving import policy_server
from student.serving.address import Address
from student.serving.policy import ConstantVelocity
from student.serving.server import serving
from tests.paths import ROOT
from tests.student.serving.remembering import Remembering, plans
from tests.student.serving.simulator import (
    ANY_PORT,
    Wire,
    begun,
    jpeg,
    jpegs,
    plan_rows,
    resumed,
    sensor_values,
    tick_header,
)

TOKEN = "a secret of some length"


def refuses(why, address, **options):
    with pytest.raises(RequestError, match=why), serving(Remembering(1), address, mode="parity", **options):
        pass


def drive(address, name, ticks, pace):
    """Answers of a drive that pauses at random between its ticks."""
    with begun(address, f"RouteScenario_{name}") as wire:
        answers = []
        for step in range(ticks):
            pace()
            answers.append(wire.tick(step, f"{name} {step}"))
        wire.end()
    return [{key: value for key, value in answer.items() if key != "ms"} for answer in answers]


def test_eight_drives_do_not_know_of_each_other():
    ticks, names = 12, "abcdefgh"
    with serving(Remembering(8), ANY_PORT, mode="parity") as address:
        alone = {name: drive(address, name, ticks, lambda: None) for name in names}
    policy, together, rng = Remembering(8), {}, random.Random(0)
    waits = threading.Event()
    with serving(policy, ANY_PORT, mode="parity") as address:
        threads = [
            threading.Thread(
                target=lambda name=name: together.update(
                    {name: drive(address, name, ticks, lambda: waits.wait(rng.uniform(0, 0.02)))}
                )
            )
            for name in names
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert together == alone
    for name in names:
        assert [answer["plan"] for answer in alone[name]] == plans(
            *(f"{name} {step}" for step in range(ticks))
        )
    assert all(len(round) == 8 for round in policy.rounds)
    assert max(sum(drive is not None for drive in round) for round in policy.rounds) > 1


def test_a_round_waits_for_no_drive_that_ended():
    with serving(Remembering(2), ANY_PORT, mode="parity") as address, begun(address) as first:
        with begun(address) as second:
            second.tick(0, "b")
            second.end()
        for step in range(3):
            assert first.tick(step, step)["plan"] == plans(*range(step + 1))[-1]


def test_a_plan_is_followed_until_the_next():
    policy = Remembering(1)
    with serving(policy, ANY_PORT, mode="corrected", every=3) as address, begun(address) as wire:
        answers = [
            wire.tick(step, step) if step % 3 == 0 else wire.ask(tick_header(step) | {"cameras": []})
            for step in range(7)
        ]
        planned = [plans(0, 3, 6)[step // 3] for step in range(7)]
        assert [answer["plan"] for answer in answers] == planned
        assert wire.tick(7, 7)["code"] == "protocol"
    assert len(policy.rounds) == 3


def test_images_are_due_at_planned_ticks():
    with serving(Remembering(1), ANY_PORT, mode="parity") as address, begun(address) as wire:
        assert wire.ask(tick_header(0) | {"cameras": []})["code"] == "refused"


def test_a_tick_before_a_route_is_refused():
    with serving(Remembering(1), ANY_PORT, mode="parity") as address, Wire(address) as wire:
        wire.hello()
        assert wire.tick(0, "a")["code"] == "protocol"


def test_a_start_far_from_the_route_is_refused():
    with serving(Remembering(1), ANY_PORT, mode="parity") as address, begun(address) as wire:
        far = sensor_values() | {"gps": [0.01, 0.0, 0.0]}
        answer = wire.tick(0, "a", sensors=far)
        assert answer["code"] == "refused"
        assert "expected" in answer["message"]


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"cameras": list(RIG.cameras)[::-1]}, "refused"),
        ({"cameras": [*RIG.cameras, "CAM_TOP"]}, "refused"),
        ({"sensors": None}, "protocol"),
        ({"replay": {"command": 9}}, "protocol"),
    ],
    ids=str,
)
def test_a_wrong_tick_ends_its_own_session_only(changed, code):
    with serving(Remembering(2), ANY_PORT, mode="parity") as address, begun(address) as good:
        with begun(address) as bad:
            assert bad.tick(0, "b", **changed)["code"] == code
            assert resumed(bad)["code"] == "gone"
        assert good.tick(0, "a")["plan"] == plans("a")[0]


@pytest.mark.parametrize(
    "image",
    [b"no image", jpeg(size=(1600, 899)), jpeg(progressive=True), jpeg()[:100], jpeg(b"undecodable")],
    ids=["text", "small", "progressive", "cut", "undecodable"],
)
def test_a_wrong_image_ends_its_own_session_only(image):
    policy = Remembering(2)
    with serving(policy, ANY_PORT, mode="parity") as address, begun(address) as good:
        with begun(address) as bad:
            answer = bad.ask(tick_header(0), [*jpegs("b")[:5], image])
            assert answer["type"] == "error"
            assert resumed(bad)["code"] == "gone"
        assert good.tick(0, "a")["plan"] == plans("a")[0]
    assert len(policy.rounds) == 1


def test_a_policy_that_fails_ends_the_drives_of_that_round_only(capsys):
    policy = Remembering(2)
    with serving(policy, ANY_PORT, mode="parity") as address, begun(address) as good:
        good.tick(0, "a")
        with begun(address) as bad:
            answer = bad.ask(tick_header(0), [*jpegs("b")[:5], jpeg(b"faulty")])
            assert answer["code"] == "failed"
            assert "cannot go on" in answer["message"]
        assert good.tick(1, "b")["plan"] == plans("a", "b")[1]
    assert "RuntimeError: the policy cannot go on" in capsys.readouterr().err


class Senseless(ConstantVelocity):
    def step(self, inputs, state):
        return np.full((self.slots, 6, 2), np.nan), state


def test_no_control_is_made_up(capsys):
    with serving(Senseless(1), ANY_PORT, mode="parity") as address, begun(address) as wire:
        answer = wire.tick(0, "a")
        assert answer["type"] == "error"
        assert "not finite" in answer["message"]


def test_replays_are_for_rehearsals():
    with serving(Remembering(1), ANY_PORT, mode="parity") as address, begun(address) as wire:
        eye = np.eye(4).tolist()
        replay = {
            "lidar2cam": [eye] * 6,
            "intrinsic": [np.eye(3).tolist()] * 6,
            "ego_pose": eye,
            "ego_pose_inv": eye,
            "timestamp_s": 0.0,
            "command": 3,
            "can_bus": [0.0] * 18,
        }
        answer = wire.tick(0, "a", sensors=None, replay=replay)
        assert "where the server allows" in answer["message"]


def test_a_token_is_asked_for(tmp_path):
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    with serving(Remembering(1), ANY_PORT, mode="parity", token=file) as address:
        for wrong in (None, "", TOKEN[:-1], TOKEN + "x", "ü" * 23):
            with Wire(address) as wire:
                assert wire.hello(token=wrong)["code"] == "token"
        with begun(address, token=TOKEN) as wire:
            assert wire.tick(0, "a")["plan"] == plans("a")[0]


def test_other_machines_need_a_token(tmp_path):
    everywhere = Address.parse("tcp://0.0.0.0:0")
    refuses("other machines", everywhere)
    file = tmp_path / "token"
    file.write_text("short")
    refuses("5 characters", ANY_PORT, token=file)


def test_a_socket_in_the_file_system(tmp_path):
    address = Address.parse(f"unix://{tmp_path}/socket")
    with serving(Remembering(1), address, mode="parity") as bound:
        assert stat.S_IMODE(os.stat(bound.path).st_mode) == 0o600
        refuses("another server", address)
        with begun(bound) as wire:
            assert wire.tick(0, "a")["plan"] == plans("a")[0]
    assert not os.path.exists(bound.path)
    (tmp_path / "socket").write_text("somebody's file")
    refuses("no socket", address)
    assert (tmp_path / "socket").read_text() == "somebody's file"


def test_a_port_in_use_is_reported():
    with serving(Remembering(1), ANY_PORT, mode="parity") as address:
        refuses("in use", address)


def test_a_rate_is_a_whole_number():
    refuses("every 0 ticks", ANY_PORT, every=0)


def test_connections_that_say_nothing_are_closed(monkeypatch):
    monkeypatch.setattr(policy_server, "HELLO_S", 0.1)
    with serving(Remembering(1), ANY_PORT, mode="parity") as address, Wire(address) as wire:
        with pytest.raises(ConnectionError):
            wire.receive()
        begun(address).close()


def test_there_is_an_end_to_connections(monkeypatch):
    monkeypatch.setattr(policy_server, "MOST_CONNECTIONS", 3)
    with serving(Remembering(1), ANY_PORT, mode="parity") as address, begun(address) as good:
        others = [Wire(address) for _ in range(5)]
        for refused in others[2:]:
            with pytest.raises(ConnectionError):
                refused.receive()
        assert good.tick(0, "a")["plan"] == plans("a")[0]
        for other in others:
            other.close()


PROGRAM = """
import signal
from student.serving.address import Address
from student.serving.policy import ConstantVelocity
from student.serving.server import serve
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored below a shell's background job
serve(ConstantVelocity(1), Address.parse({address!r}), mode="parity")
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda how: how.name)
def test_a_server_process_says_where_it_listens_and_ends_when_told(how, tmp_path):
    address = f"unix://{tmp_path}/socket"
    program = [sys.executable, "-c", PROGRAM.format(address=address)]
    for _ in range(2 if how == signal.SIGKILL else 1):  # what a killed server leaves is no obstacle
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with subprocess.Popen(program, cwd=ROOT, text=True, **pipes) as server:
            try:
                assert server.stdout.readline() == f"ready {address}\n"
                with begun(Address.parse(address)) as wire:
                    assert wire.tick(0, "a")["plan"][0] == [0.0, 1.5]
                server.send_signal(how)
                complaint = server.stderr.read()
                server.wait()
            finally:
                server.kill()
    assert server.returncode == {signal.SIGTERM: 0, signal.SIGINT: -signal.SIGINT}.get(how, -how), complaint
    assert os.path.exists(tmp_path / "socket") is (how == signal.SIGKILL)
    assert ("KeyboardInterrupt" in complaint) is (how == signal.SIGINT)


def test_a_route_of_many_nodes_fits():
    rows = plan_rows()
    rows = {name: [nodes[0]] * 3000 + nodes for name, nodes in rows.items()}
    with serving(Remembering(1), ANY_PORT, mode="parity") as address, Wire(address) as wire:
        wire.hello()
        assert wire.begin(plan=rows)["type"] == "began"

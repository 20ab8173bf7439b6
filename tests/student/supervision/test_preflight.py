"""The checks before a drive, on folders laid out as Bench2Drive's and CARLA's, with a real policy server."""

import json
import os
import socket
import sys
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cache_schema.errors import RequestError
from cache_schema.storage.atomic_io import sha256_of
from cli import app
from student.scoring.conditions import WANTED, read_conditions
from student.serving.address import Address
from student.serving.policy import ConstantVelocity
from student.serving.server import serving
from student.supervision import preflight as checks
from student.supervision import simulator
from student.supervision.evaluator import bench2drive
from student.supervision.preflight import Preflight, preflight
from student.supervision.routes import read_routes
from student.supervision.server import ServerAddress
from tests.student.supervision.driving import attempts, running, write_routes
from tests.student.supervision.installation import install

MAPS = ["/Game/Carla/Maps/Town12/Town12", "/Game/Carla/Maps/Town13/Town13"]
ANY_PORT = Address.parse("tcp://127.0.0.1:0")


NVIDIA_SMI = "#!/bin/sh\necho NVIDIA H100\necho NVIDIA A100\necho NVIDIA H100\n"


class Installed:
    """A machine on which everything is there, until a test takes something away."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tree, self.carla = install(folder)
        self.routes = write_routes(folder / "routes.xml", {"1": "finish", "2": "crash,finish"})
        self.state()

    def state(self, version: str = "0.9.15", maps: list[str] = MAPS, broken_gpus: tuple[str, ...] = ()):
        text = json.dumps({"version": version, "maps": maps, "broken_gpus": broken_gpus})
        (self.carla / "state.json").write_text(text)

    def check(self, server: Address | None = None, python: str = sys.executable, **options) -> Preflight:
        evaluator = bench2drive(self.tree, self.carla, agent_config="", python=python)
        return preflight(
            self.routes,
            self.folder / "results",
            evaluator,
            server=None if server is None else ServerAddress(server, options.pop("token", None)),
            **options,
        )


@pytest.fixture
def installed(tmp_path, monkeypatch) -> Installed:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/nvidia-smi").write_text(NVIDIA_SMI)
    (tmp_path / "bin/nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    return Installed(tmp_path)


def only_error(found: Preflight, check: str) -> RequestError:
    assert [name for name, text in found.found.items() if text == "failed"] == [check]
    (error,) = found.errors
    return error


def test_where_everything_is_there_nothing_is_to_be_repaired(installed):
    with serving(ConstantVelocity(2), ANY_PORT, mode="parity") as address:
        found = installed.check(address, gpus=[0, 3], workers=2)
    assert found.errors == ()
    assert found.found["routes"] == "2 in 1 towns"
    assert found.found["imports"] == f"Python {sys.version.split()[0]}"
    assert found.found["simulator on GPU 0"] == found.found["simulator on GPU 3"] == "CARLA 0.9.15"
    assert found.found["policy server"] == f"{address}: student constant velocity; mode parity, every 1"
    assert found.conditions == {
        "policy": {"student": "constant velocity"},
        "mode": "parity",
        "every": 1,
        "allow_replay": False,
        "agent_file": sha256_of(installed.tree / "leaderboard/team_code/teachonce_agent.py"),
        "carla_server": "0.9.15",
        "carla_client": "0.9.15",
        "gpu": "NVIDIA A100; NVIDIA H100",
    }
    assert running(installed.carla) == []


def test_the_check_takes_leave_of_the_server_so_that_its_place_is_free(installed, tmp_path):
    log = tmp_path / "server.jsonl"
    with serving(ConstantVelocity(1), ANY_PORT, mode="parity", log=log) as address:
        for _ in range(2):
            assert installed.check(address, start_simulator=False).errors == ()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["reason"] for line in lines if line["event"] == "end"] == ["end", "end"]


def test_a_server_that_is_not_there_refuses_or_has_too_few_slots(installed, tmp_path):
    token, other = tmp_path / "token", tmp_path / "other"
    token.write_text("a" * 32)
    other.write_text("b" * 32)
    with serving(ConstantVelocity(1), ANY_PORT, mode="parity", token=token) as address:
        assert installed.check(address, token=token, start_simulator=False).errors == ()
        error = only_error(installed.check(address, token=other, start_simulator=False), "policy server")
        assert "refuses the agent: the token is not the server's" in error.happened
        many = installed.check(address, token=token, workers=2, start_simulator=False)
        assert "has 1 slots for 2 workers" in only_error(many, "policy server").happened
    error = only_error(installed.check(address, start_simulator=False), "policy server")
    assert "does not answer" in error.happened
    assert "teachonce serve" in error.repair


def test_what_listens_but_is_no_policy_server_is_told(installed):
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        address = Address("127.0.0.1", listening.getsockname()[1])
        error = only_error(installed.check(address, start_simulator=False), "policy server")
        thread.join()
    assert "is no policy server" in error.happened


def test_a_python_without_what_the_evaluator_needs(installed):
    (installed.tree / "leaderboard/cv2.py").unlink()
    error = only_error(installed.check(), "imports")
    assert "No module named 'cv2'" in error.happened
    error = only_error(installed.check(python="no-such-python"), "imports")
    assert "cannot be started" in error.happened


def test_an_agent_file_that_is_missing_or_broken(installed):
    agent = installed.tree / "leaderboard/team_code/teachonce_agent.py"
    agent.write_text("import nothing_of_this_name\n")
    assert "nothing_of_this_name" in only_error(installed.check(), "imports").happened
    agent.unlink()
    error = only_error(installed.check(), "agent file")
    assert "teachonce agent" in error.repair


def test_a_simulator_that_does_not_start_or_is_another(installed):
    installed.state(broken_gpus=("1",))
    error = only_error(installed.check(gpus=[0, 1]), "simulator on GPU 1")
    assert "vkCreateInstance failed" in error.happened
    assert "-graphicsadapter=1" in error.expected
    installed.state(version="0.9.16")
    assert (
        "0.9.16, and the evaluator's Python has carla 0.9.15"
        in only_error(installed.check(), "simulator on GPU 0").happened
    )
    installed.state(maps=["/Game/Carla/Maps/Town01"])
    assert "CARLA lacks Town12" in only_error(installed.check(), "simulator on GPU 0").happened
    (installed.carla / "CarlaUE4.sh").unlink()
    assert "CarlaUE4.sh is missing" in only_error(installed.check(), "CARLA").happened
    assert running(installed.carla) == []


def test_a_simulator_that_hangs_is_ended(installed, monkeypatch):
    monkeypatch.setattr(simulator, "STARTS_S", 1.0)
    (installed.carla / "server.py").write_text("import os, time; os.setsid(); time.sleep(600)")
    assert "does not answer on GPU 0" in only_error(installed.check(), "simulator on GPU 0").happened
    assert running(installed.carla) == []


def test_a_disk_without_room(installed, monkeypatch):
    monkeypatch.setattr(checks, "MOST_TICKS", 10**15)
    assert "free" in only_error(installed.check(start_simulator=False), "disk").happened


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<routes/>", "holds no route"),
        ("<routes><route id='1' town='T'/><route id='1' town='T'/></routes>", "holds 1 more than once"),
        ("<routes><route id='../1' town='T'/></routes>", r"the id '\.\./1'"),
        ("<routes><route id='1'/></routes>", "the town ''"),
        ("no XML", "cannot be read"),
    ],
)
def test_a_file_that_holds_no_routes(tmp_path, text, message):
    (tmp_path / "routes.xml").write_text(text)
    with pytest.raises(RequestError, match=message):
        read_routes(tmp_path / "routes.xml")


def test_a_route_alone_is_the_route_of_the_file(tmp_path):
    whole = tmp_path / "routes.xml"
    whole.write_text(
        "<routes><route id='7' town='Town12'><weathers><weather route_percentage='0'/></weathers>"
        "<waypoints><position x='1.50' y='-2' z='0'/></waypoints></route>"
        "<route id='8' town='Town13'/></routes>"
    )
    first, second = read_routes(whole)
    assert [(route.id, route.town) for route in (first, second)] == [("7", "Town12"), ("8", "Town13")]
    (tmp_path / "alone.xml").write_bytes(first.document)
    assert read_routes(tmp_path / "alone.xml") == [first]
    assert b"x='1.50'" in first.document.replace(b'"', b"'")
    assert b"route_percentage" in first.document


def drive_command(installed: Installed, *options: object) -> list[str]:
    places = ["--bench2drive", installed.tree, "--carla", installed.carla, "--python", sys.executable]
    routes = ["--routes", installed.routes, "--backoff", 0.01]
    return [*map(str, ["drive", "--out", installed.folder / "results", *places, *routes, *options])]


def test_the_command_checks_and_then_drives_with_bench2drive_s_own_arguments(installed):
    with serving(ConstantVelocity(2), ANY_PORT, mode="corrected", every=2) as address:
        only = CliRunner().invoke(app, drive_command(installed, "--server", address, "--check"))
        assert only.exit_code == 0, only.output
        assert not (installed.folder / "results").exists()
        done = CliRunner().invoke(app, drive_command(installed, "--server", address, "--workers", 2))
    assert done.exit_code == 0, done.output
    results = installed.folder / "results"
    assert attempts(results) == {"1": ["finished"], "2": ["crashed", "finished"]}
    conditions = json.loads((results / "drive.json").read_text())
    assert conditions["mode"] == "corrected"
    scored = read_conditions(results)
    assert scored.told == conditions
    assert {*WANTED} <= {*scored.told}
    assert (scored.attempts, scored.repeated) == (3, {"2": 2})
    log = (results / "work/1/1/evaluator.log").read_text()
    assert f"agent {address}" in log
    assert f"CARLA_ROOT {installed.carla}" in log
    with serving(ConstantVelocity(2), ANY_PORT, mode="parity") as address:
        other = CliRunner().invoke(app, drive_command(installed, "--server", address))
    assert other.exit_code == 2
    assert "every, mode differ" in other.stderr


def test_the_command_names_everything_that_is_to_be_repaired(installed):
    (installed.tree / "leaderboard/cv2.py").unlink()
    (installed.carla / "CarlaUE4.sh").unlink()
    refused = CliRunner().invoke(app, drive_command(installed, "--server", "tcp://127.0.0.1:1"))
    assert refused.exit_code == 2
    assert refused.stderr.count("to do:") == 3
    for message in ("No module named 'cv2'", "CarlaUE4.sh is missing", "does not answer"):
        assert message in refused.stderr
    assert not (installed.folder / "results").exists()


def test_the_command_says_which_evaluators_there_are(tmp_path):
    command = ["drive", "--out", str(tmp_path / "results")]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2
    assert "--server is missing" in refused.stderr
    refused = CliRunner().invoke(app, [*command, "--server", "tcp://127.0.0.1:1"])
    assert refused.exit_code == 2
    assert "--bench2drive and --carla; or --evaluator and --agent" in refused.stderr


def test_routes_that_never_end_are_told_by_the_exit_code(installed):
    write_routes(installed.routes, {"1": "crash"})
    done = CliRunner().invoke(
        app, drive_command(installed, "--no-start-simulator", "--attempts", 1, "--agent-config", "x")
    )
    assert done.exit_code == 1
    assert "1 crashed" in done.stdout

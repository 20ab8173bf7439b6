"""Supervisor, evaluators, agent file and policy server together, without CARLA; the server dies meanwhile."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.paths import ROOT
from tests.student.supervision.driving import attempts, running, status

SERVE = """
import sys, time
from pathlib import Path
from student.serving.address import Address
from student.serving.policy import ConstantVelocity
from student.serving.server import serve

class Stalls(ConstantVelocity):
    rounds = 0

    def step(self, inputs, state):
        self.rounds += 1
        if self.rounds == int(sys.argv[3]):
            Path(sys.argv[2]).touch()
            time.sleep(600)
        return super().step(inputs, state)

serve(Stalls(2), Address.parse(sys.argv[1]), mode="parity", allow_replay=True)
"""
AWAY = ("Failed - Agent crashed", "Failed - Agent couldn't be set up")
AGENT = ROOT / "student/serving/bench2drive_agent.py"


def until(condition: Callable[[], object], *processes: subprocess.Popen) -> None:
    while not condition():
        assert all(process.poll() is None for process in processes)
        time.sleep(0.02)


def server(address: str, stalled: Path, at_round: int) -> subprocess.Popen:
    """A server of two slots, once it is ready."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, address, str(stalled), str(at_round)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("ready ")
    return process


def test_routes_under_way_when_the_server_dies_are_repeated_and_no_others(clips_root, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    rehearse = [sys.executable, "-m", "pipeline.bench2drive.rehearsal", "--clips", str(clips_root)]
    routes, results, stalled = tmp_path / "routes.xml", tmp_path / "results", tmp_path / "stalled"
    subprocess.run([*rehearse, "--write-routes", str(routes)], cwd=ROOT, check=True)
    evaluator = " ".join(rehearse) + " --routes {routes} --checkpoint {checkpoint} --agent {agent}"
    evaluator += " --agent-config {agent_config}"
    command = ["drive", "--out", results, "--routes", routes, "--server", address, "--agent", AGENT]
    command += ["--evaluator", evaluator, "--workers", "2", "--backoff", "0.01"]
    first = server(address, stalled, 3)
    drive = subprocess.Popen(
        [sys.executable, "cli.py", *map(str, command)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    second = None
    try:
        until(stalled.exists, first, drive)
        first.kill()
        first.communicate()
        second = server(address, tmp_path / "unused", -1)
        shown, err = drive.communicate()
        assert drive.returncode == 0, err
    finally:
        for process in (first, second, drive):
            if process is not None and process.poll() is None:
                process.kill()
                process.communicate()
    ends = attempts(results)
    assert sorted(ends) == sorted(path.stem for path in results.glob("[0-9]*.json"))
    assert len(ends) == 3
    repeated = [route for route, outcomes in ends.items() if outcomes == ["gone", "finished"]]
    assert 1 <= len(repeated) <= 2  # as many as there are workers
    assert all(outcomes == ["finished"] for route, outcomes in ends.items() if route not in repeated)
    assert {status(results, route) for route in ends} == {"Perfect"}
    assert f"3 finished, {len(repeated)} gone" in shown
    assert f"attempt 1: {AWAY[0]}" in err or f"attempt 1: {AWAY[1]}" in err
    assert running(results) == []
    conditions = json.loads((results / "drive.json").read_text())
    assert conditions["policy"] == {"student": "constant velocity"}
    for route in ends:
        (record,) = json.loads((results / f"{route}.json").read_text())["_checkpoint"]["records"]
        assert (results / "metrics" / record["save_name"] / "metric_info.json").is_file()

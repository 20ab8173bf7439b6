"""An evaluator for one route that really runs, and behaves as the route's scenarios say: one an attempt.

Like the leaderboard's, it empties its checkpoint first, starts its simulator in a session of its own, kills
it only if it ends by itself, and writes a whole record or none.
"""

import argparse
import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import psutil

FOREVER_S = 600
SIMULATOR = """
import os, sys, time
os.fork()  # as CarlaUE4.sh starts the simulator itself
time.sleep(int(sys.argv[2]))
"""
TRACEBACK = """Traceback (most recent call last):
  File "team_code/teachonce_agent.py", line 1, in run_step
teachonce_agent.ServerGone: teachonce gone: the server was started again

During handling of the above exception, another exception occurred:
leaderboard.autoagents.agent_wrapper.AgentError: teachonce gone: the server was started again
"""


def running(folder: Path) -> list[str]:
    """Command lines of processes that name what is in a folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(f"{folder}/" in word for word in words):
            found.append(" ".join(words)[:500])
    return found


def main() -> int:
    parser = argparse.ArgumentParser()
    for name in ("routes", "checkpoint", "agent", "agent-config", "debug-checkpoint", "track"):
        parser.add_argument(f"--{name}")
    for name in ("port", "traffic-manager-port", "gpu-rank", "repetitions"):
        parser.add_argument(f"--{name}", type=int)
    arguments = parser.parse_args()
    print("CARLA_ROOT", os.environ.get("CARLA_ROOT"))
    (route,) = ElementTree.parse(arguments.routes).getroot().iter("route")
    checkpoint = Path(arguments.checkpoint)
    behaviours = [scenario.get("type") for scenario in route.iter("scenario")]
    behaviour = behaviours[min(int(checkpoint.parent.name), len(behaviours)) - 1]
    checkpoint.write_bytes(b"")
    of_route = [words for words in running(checkpoint.parent.parent) if str(checkpoint) not in words]
    print(f"left of earlier attempts: {len(of_route)}", flush=True)
    print(f"port {arguments.port}, agent {arguments.agent_config}", flush=True)
    listening = socket.create_server(("", arguments.port))  # taken: an error, and no record
    simulator = subprocess.Popen(
        [sys.executable, "-S", "-c", SIMULATOR, arguments.checkpoint, str(FOREVER_S)], start_new_session=True
    )
    atexit.register(os.killpg, simulator.pid, signal.SIGKILL)
    # The same for every attempt; the leaderboard's name has the time in seconds.
    saved = Path(os.environ["SAVE_PATH"]) / f"RouteScenario_{route.get('id')}_rep0"
    saved.mkdir()
    with listening, (saved / "metric_info.json").open("w") as metrics:
        metrics.write(f"attempt {checkpoint.parent.name}\n")

        def ticks(seconds: float) -> None:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                metrics.write("{}\n")
                metrics.flush()
                time.sleep(0.02)

        def record(status: str) -> None:
            found = {
                "route_id": f"RouteScenario_{route.get('id')}_rep0",
                "status": status,
                "save_name": saved.name,
            }
            checkpoint.write_text(json.dumps({"_checkpoint": {"progress": [1, 1], "records": [found]}}))

        ticks(0.05)
        match behaviour:
            case "finish":
                record("Completed")
            case "blocked":
                record("Failed - Agent got blocked")
            case "crash":
                print("server is gone", flush=True)
                record("Failed - Simulation crashed")
                return 255
            case "agent":
                print("Traceback (most recent call last):\n  File ...\nValueError: no image\n\n> Stopping")
                record("Failed - Agent crashed")
            case "simulator":
                print("Traceback (most recent call last):", flush=True)
                print("RuntimeError: time-out of 600000ms while waiting for the simulator, make sure ...")
                record("Failed - Agent crashed")
            case "gone":
                print(TRACEBACK, flush=True)
                record("Failed - Agent crashed")
            case "die":
                return 1
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "cut":
                record("Completed")
                checkpoint.write_text(checkpoint.read_text()[:-10])
                os._exit(0)
            case "hang":
                while True:
                    print("load_world failed", flush=True)
                    time.sleep(0.05)
            case "hang after":
                record("Completed")
                time.sleep(FOREVER_S)
            case "drive on":
                ticks(FOREVER_S)
            case "slow":
                ticks(6)
                record("Completed")
    return 0


if __name__ == "__main__":
    sys.exit(main())

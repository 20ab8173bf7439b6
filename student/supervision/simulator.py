"""The simulator, before it is needed: that its program is there, starts, and has the maps."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from cache_schema.errors import RequestError
from student.supervision.attempt import OF_ATTEMPT
from student.supervision.conditions import SEPARATOR
from student.supervision.evaluator import in_python, last_line
from student.supervision.marked import Tree, keeping
from student.supervision.ports import Ports

if TYPE_CHECKING:
    from student.supervision.evaluator import Evaluator

SIMULATOR = "CarlaUE4"
STARTS_S = 240.0
"""On a slow disk; usually it takes half a minute."""
ANSWERS_S = 30.0
PAUSE_S = 0.5

ASK = """
import json, sys, carla
client = carla.Client("localhost", int(sys.argv[1]))
client.set_timeout(10.0)
print(json.dumps({"server": client.get_server_version(), "client": client.get_client_version(),
                  "maps": client.get_available_maps()}))
"""
"""Asks a simulator which one it is, in the evaluator's Python."""


def simulator_program(evaluator: Evaluator) -> str:
    """Return the path of the simulator's program.

    Raises:
        RequestError: It is not there.
    """
    assert evaluator.carla is not None
    program = evaluator.carla / f"{SIMULATOR}.sh"
    if not os.access(program, os.X_OK):
        raise RequestError(
            f"{program} is missing, or cannot be run",
            expected="the folder of CARLA 0.9.15 with its AdditionalMaps",
            repair="name it with --carla; chmod +x CarlaUE4.sh",
        )
    return str(program)


def running_simulators() -> str:
    """Return which simulators run on this machine, whoever started them."""
    running = [
        process.pid for process in psutil.process_iter(["name"]) if SIMULATOR in (process.info["name"] or "")
    ]
    return f"run: processes {', '.join(map(str, running))}" if running else "none"


def graphics_cards() -> str:
    """Return the names of this machine's NVIDIA GPUs, each once; empty where that is not known."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        names = subprocess.run(command, capture_output=True, text=True, check=True, timeout=ANSWERS_S).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return SEPARATOR.join(sorted({name.strip() for name in names.splitlines()}))


def try_simulator(evaluator: Evaluator, gpu: int, towns: set[str]) -> tuple[str, str]:
    """Start a simulator, ask it for its version and maps, and end it; return its version and its client's.

    Args:
        evaluator: Whose simulator, and whose Python asks.
        gpu: Where it draws.
        towns: That it must have.

    Raises:
        RequestError: It does not answer, is of another version than its client, or lacks a town.
    """
    assert evaluator.carla is not None
    marks = {OF_ATTEMPT: f"preflight {uuid.uuid4().hex}"}
    with tempfile.TemporaryDirectory() as folder, Ports().lent() as ports, keeping(marks):
        log = Path(folder) / "simulator.log"
        command = [
            simulator_program(evaluator),
            "-RenderOffScreen",
            "-nosound",
            f"-carla-rpc-port={ports.rpc}",
            f"-graphicsadapter={gpu}",
        ]
        tree = Tree(command, marks, folder=evaluator.carla, environment=evaluator.environment, log=log)
        try:
            answer, text = _asked(evaluator, tree, ports.rpc)
        finally:
            tree.end()
        said = last_line(log.read_text(errors="replace")) or text
    if answer is None:
        raise RequestError(
            f"CARLA does not answer on GPU {gpu}: {said}",
            expected=f"an answer within {STARTS_S:g} s of {shlex.join(command)}",
            repair="run that command by hand; it needs a Vulkan driver (`vulkaninfo`), and no root",
        )
    server, client, maps = (
        answer["server"],
        answer["client"],
        {name.split("/")[-1] for name in answer["maps"]},
    )
    if server != client:
        raise RequestError(
            f"CARLA is {server}, and the evaluator's Python has carla {client}",
            expected="the same version of both: otherwise positions and maps may differ",
            repair=f"pip install carla=={server}, or use the egg that CARLA brings",
        )
    if missing := sorted(towns - maps):
        raise RequestError(
            f"CARLA lacks {', '.join(missing)}",
            expected="the towns of all routes",
            repair="put AdditionalMaps_0.9.15.tar.gz into CARLA's folder Import, and run ./ImportAssets.sh",
        )
    return server, client


def _asked(evaluator: Evaluator, tree: Tree, port: int) -> tuple[dict[str, Any] | None, str]:
    give_up, text = time.monotonic() + STARTS_S, "it ended"
    while tree.is_running() and time.monotonic() < give_up:
        code, text = in_python(evaluator, ASK, str(port), limit_s=ANSWERS_S)
        if code == 0:
            return json.loads(last_line(text)), ""
        time.sleep(PAUSE_S)
    return None, last_line(text)

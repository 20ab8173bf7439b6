"""What can be known before hours of driving: each check says what it found, or what to repair."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from cache_schema.errors import RequestError, TeachonceError
from cache_schema.terminal import size
from student.supervision.attempt import OF_ATTEMPT
from student.supervision.evaluator import MODULES
from student.supervision.marked import Tree, keeping
from student.supervision.ports import Ports
from student.supervision.routes import Route, read_routes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rich.table import Table

    from student.supervision.evaluator import Evaluator
    from student.supervision.server import PolicyServer

MOST_TICKS = 4000
"""Of a route."""
TICK_BYTES = 2 * 600
"""Of metrics: six vectors of three numbers of up to 20 characters, and their names; a line, and once more."""
SIMULATOR_STARTS_S = 240.0
IMPORTS_S = 120.0
SIMULATOR = "CarlaUE4"

IMPORT = """
import importlib, os, sys
agent, modules = sys.argv[1], sys.argv[2:]
for module in modules:
    importlib.import_module(module)
sys.path.insert(0, os.path.dirname(agent))
loaded = importlib.import_module(os.path.basename(agent).split(".")[0])
getattr(loaded, loaded.get_entry_point())
print("Python " + sys.version.split()[0])
"""
"""Imports as the evaluator does, in its Python."""
ASK = """
import json, sys, carla
client = carla.Client("localhost", int(sys.argv[1]))
client.set_timeout(10.0)
print(json.dumps({"server": client.get_server_version(), "client": client.get_client_version(),
                  "maps": client.get_available_maps()}))
"""
"""Asks a simulator which one it is, in the evaluator's Python."""


class PreflightError(TeachonceError):
    """Checks that failed, each with its three parts.

    Args:
        errors: Of the checks.
    """

    def __init__(self, errors: Iterable[TeachonceError]) -> None:
        self.errors = tuple(errors)
        first = self.errors[0]
        super().__init__(first.happened, expected=first.expected, repair=first.repair)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.errors,)

    def __str__(self) -> str:
        return "\n".join(map(str, self.errors))


@dataclass(frozen=True)
class Preflight:
    """What the checks found."""

    found: dict[str, str]
    """By check."""
    errors: tuple[TeachonceError, ...]
    conditions: dict[str, Any]
    """What all results of a folder must have in common."""

    def raise_errors(self) -> None:
        """Raise what the checks that failed found.

        Raises:
            PreflightError: At least one failed.
        """
        if self.errors:
            raise PreflightError(self.errors)

    def __rich__(self) -> Table:
        from cache_schema.terminal import table

        shown = table("check", "found")
        for check, found in self.found.items():
            shown.add_row(check, found)
        return shown


def preflight(
    routes: Path,
    results: Path,
    evaluator: Evaluator,
    *,
    server: PolicyServer | None = None,
    gpus: Iterable[int] = (0,),
    start_simulator: bool = True,
) -> Preflight:
    """Check what a drive needs, all of it, whatever fails.

    Args:
        routes: The file of routes.
        results: Folder of results.
        evaluator: The program that drives a route.
        server: The policy server.
        gpus: Of the simulators.
        start_simulator: Start a simulator on every GPU, and end it.
    """
    found: dict[str, str] = {}
    errors: list[TeachonceError] = []
    conditions: dict[str, Any] = {}
    listed: list[Route] = []

    def check(name: str, look: Callable[[], str]) -> bool:
        try:
            found[name] = look()
        except TeachonceError as error:
            errors.append(error)
            found[name] = "failed"
        return found[name] != "failed"

    def look_at_routes() -> str:
        listed.extend(read_routes(routes))
        return f"{len(listed)} in {len({route.town for route in listed})} towns"

    check("routes", look_at_routes)
    check("disk", lambda: _disk(results, len(listed)))
    check("ports", _ports)
    if has_agent := check("agent file", lambda: _agent(evaluator)):
        conditions["agent"] = found["agent file"]
    if server is not None and has_agent:

        def look_at_server() -> str:
            conditions["policy"] = server.greeting(evaluator.agent)
            return server.address

        check("policy server", look_at_server)
    imported = has_agent and evaluator.python is not None and check("imports", lambda: _imports(evaluator))
    if evaluator.carla is not None:
        check("other simulators", _others)
        if check("CARLA", lambda: _carla(evaluator)) and imported and start_simulator:
            towns = {route.town for route in listed}
            for gpu in gpus:

                def look_at_simulator(gpu: int = gpu) -> str:
                    conditions["simulator"] = _simulator(evaluator, gpu, towns)
                    return conditions["simulator"]

                check(f"simulator on GPU {gpu}", look_at_simulator)
    return Preflight(found, tuple(errors), conditions)


def _disk(results: Path, routes: int) -> str:
    there = next(folder for folder in (results.absolute(), *results.absolute().parents) if folder.exists())
    free, needed = shutil.disk_usage(there).free, routes * MOST_TICKS * TICK_BYTES
    if not os.access(there, os.W_OK):
        raise RequestError(
            f"{there} cannot be written",
            expected="the right to write there",
            repair="give another folder with --out",
        )
    if free < needed:
        raise RequestError(
            f"{there} has {size(free)} free",
            expected=f"{size(needed)} for the metrics of {routes} routes",
            repair="free space, or give a folder on another disk with --out",
        )
    return f"{size(free)} free"


def _ports() -> str:
    with Ports().lent() as ports:
        return f"free, such as {ports.rpc}"


def _agent(evaluator: Evaluator) -> str:
    from cache_schema.storage.atomic_io import sha256_of

    if not evaluator.agent.is_file():
        raise RequestError(
            f"there is no agent file {evaluator.agent}",
            expected="the file that the evaluator loads",
            repair="write it by `teachonce agent BENCH2DRIVE_DIR`, or name yours with --agent",
        )
    return sha256_of(evaluator.agent)


def _imports(evaluator: Evaluator) -> str:
    code, text = _python(evaluator, IMPORT, str(evaluator.agent), *MODULES, limit_s=IMPORTS_S)
    if code:
        raise RequestError(
            f"{evaluator.python} cannot import the evaluator or the agent: {_last_line(text)}",
            expected="the Python of the leaderboard (3.7 or 3.8), with its requirements, OpenCV and carla",
            repair="name it with --python; `pip install -r leaderboard/requirements.txt` for what is missing",
        )
    return _last_line(text)


def _carla(evaluator: Evaluator) -> str:
    assert evaluator.carla is not None
    program = evaluator.carla / f"{SIMULATOR}.sh"
    if not os.access(program, os.X_OK):
        raise RequestError(
            f"{program} is missing, or cannot be run",
            expected="the folder of CARLA 0.9.15 with its AdditionalMaps",
            repair="name it with --carla; chmod +x CarlaUE4.sh",
        )
    return str(program)


def _others() -> str:
    running = [
        process.pid for process in psutil.process_iter(["name"]) if SIMULATOR in (process.info["name"] or "")
    ]
    return f"run: processes {', '.join(map(str, running))}" if running else "none"


def _simulator(evaluator: Evaluator, gpu: int, towns: set[str]) -> str:
    """Start a simulator, ask it for its version and maps, and end it."""
    assert evaluator.carla is not None
    marks = {OF_ATTEMPT: f"preflight {uuid.uuid4().hex}"}
    with tempfile.TemporaryDirectory() as folder, Ports().lent() as ports, keeping(marks):
        log = Path(folder) / "simulator.log"
        command = [
            str(evaluator.carla / f"{SIMULATOR}.sh"),
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
        said = _last_line(log.read_text(errors="replace")) or text
    if answer is None:
        raise RequestError(
            f"CARLA does not answer on GPU {gpu}: {said}",
            expected=f"an answer within {SIMULATOR_STARTS_S:g} s of {shlex.join(command)}",
            repair="run that command by hand; it needs a Vulkan driver (`vulkaninfo`), and no root",
        )
    versions, maps = (answer["server"], answer["client"]), {name.split("/")[-1] for name in answer["maps"]}
    if len({*versions}) > 1:
        raise RequestError(
            f"CARLA is {versions[0]}, and the evaluator's Python has carla {versions[1]}",
            expected="the same version of both: otherwise positions and maps may differ",
            repair=f"pip install carla=={versions[0]}, or use the egg that CARLA brings",
        )
    if missing := sorted(towns - maps):
        raise RequestError(
            f"CARLA lacks {', '.join(missing)}",
            expected="the towns of all routes",
            repair="put AdditionalMaps_0.9.15.tar.gz into CARLA's folder Import, and run ./ImportAssets.sh",
        )
    return f"CARLA {versions[0]}"


def _asked(evaluator: Evaluator, tree: Tree, port: int) -> tuple[dict[str, Any] | None, str]:
    give_up, text = time.monotonic() + SIMULATOR_STARTS_S, "it ended"
    while tree.is_running() and time.monotonic() < give_up:
        code, text = _python(evaluator, ASK, str(port), limit_s=30.0)
        if code == 0:
            return json.loads(_last_line(text)), ""
        time.sleep(0.5)
    return None, _last_line(text)


def _python(evaluator: Evaluator, program: str, *arguments: str, limit_s: float) -> tuple[int, str]:
    """Run a program in the evaluator's Python; return its exit status and output."""
    assert evaluator.python is not None
    command = [evaluator.python, "-c", program, *arguments]
    try:
        done = subprocess.run(
            command,
            cwd=evaluator.folder,
            env={**evaluator.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=limit_s,
            check=False,
        )
    except OSError as error:
        return 1, f"it cannot be started in {evaluator.folder}: {error.strerror}"
    except subprocess.TimeoutExpired:
        return 1, f"no answer within {limit_s:g} s"
    return done.returncode, done.stdout.decode(errors="replace")


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""

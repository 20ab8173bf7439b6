"""What can be known before hours of driving: each check says what it found, or what to repair."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cache_schema.errors import RequestError, TeachonceError
from cache_schema.storage.atomic_io import sha256_of
from cache_schema.terminal import size
from student.supervision.evaluator import MODULES, in_python, last_line
from student.supervision.ports import Ports
from student.supervision.routes import Route, read_routes
from student.supervision.server import RULES
from student.supervision.simulator import graphics_cards, running_simulators, simulator_program, try_simulator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from rich.table import Table

    from student.supervision.evaluator import Evaluator
    from student.supervision.server import ServerAddress

MOST_TICKS = 4000
"""Of a route."""
TICK_BYTES = 2 * 600
"""Of metrics: six vectors of three numbers of up to 20 characters, and their names; a line, and once more."""
IMPORTS_S = 120.0

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
    server: ServerAddress | None = None,
    workers: int = 1,
    gpus: Iterable[int] = (0,),
    start_simulator: bool = True,
) -> Preflight:
    """Check what a drive needs, all of it, whatever fails.

    Args:
        routes: The file of routes.
        results: Folder of results.
        evaluator: The program that drives a route.
        server: The policy server.
        workers: Evaluators beside each other.
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
        conditions["agent_file"] = sha256_of(evaluator.agent)
    if server is not None and has_agent:

        def look_at_server() -> str:
            greeting = server.greeting(evaluator.agent)
            conditions.update({name: greeting.get(name) for name in RULES}, policy=greeting["identity"])
            return _places(server, greeting, workers)

        check("policy server", look_at_server)
    imported = has_agent and evaluator.python is not None and check("imports", lambda: _imports(evaluator))
    if evaluator.carla is not None:
        check("other simulators", running_simulators)
        if gpus_here := graphics_cards():
            found["GPUs"] = conditions["gpu"] = gpus_here
        if check("CARLA", lambda: simulator_program(evaluator)) and imported and start_simulator:
            towns = {route.town for route in listed}
            for gpu in gpus:

                def look_at_simulator(gpu: int = gpu) -> str:
                    server, client = try_simulator(evaluator, gpu, towns)
                    conditions.update(carla_server=server, carla_client=client)
                    return f"CARLA {server}"

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
    if not evaluator.agent.is_file():
        raise RequestError(
            f"there is no agent file {evaluator.agent}",
            expected="the file that the evaluator loads",
            repair="write it by `teachonce agent BENCH2DRIVE_DIR`, or name yours with --agent",
        )
    return str(evaluator.agent)


def _places(server: ServerAddress, greeting: dict[str, Any], workers: int) -> str:
    if greeting["slots"] < workers:
        raise RequestError(
            f"the policy server at {server.address} has {greeting['slots']} slots for {workers} workers",
            expected="a slot for every worker: an agent without one waits until its evaluator gives up",
            repair=f"start it with --slots {workers}, or give fewer --workers",
        )
    policy = ", ".join(f"{name} {value}" for name, value in greeting["identity"].items())
    return f"{server.address}: {policy}; mode {greeting['mode']}, every {greeting['every']}"


def _imports(evaluator: Evaluator) -> str:
    code, text = in_python(evaluator, IMPORT, str(evaluator.agent), *MODULES, limit_s=IMPORTS_S)
    if code:
        raise RequestError(
            f"{evaluator.python} cannot import the evaluator or the agent: {last_line(text)}",
            expected="the Python of the leaderboard (3.7 or 3.8), with its requirements, OpenCV and carla",
            repair="name it with --python; `pip install -r leaderboard/requirements.txt` for what is missing",
        )
    return last_line(text)

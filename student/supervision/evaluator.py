"""The command that drives one route, as data: the leaderboard's own evaluator, or any other program."""

from __future__ import annotations

import os
import shlex
import string
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cache_schema.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

PLACES = ("routes", "checkpoint", "live", "port", "traffic_manager_port", "gpu", "agent", "agent_config")
"""What a command is filled in with for every attempt."""
LEADERBOARD = (
    "leaderboard/leaderboard/leaderboard_evaluator.py --routes={routes} --repetitions=1 "
    "--track=SENSORS --checkpoint={checkpoint} --debug-checkpoint={live} --agent={agent} "
    "--agent-config={agent_config} --port={port} --traffic-manager-port={traffic_manager_port} "
    "--gpu-rank={gpu}"
)
"""Arguments for its Python. Without ``--resume``: of that, any value is true."""
MODULES = ("leaderboard.leaderboard_evaluator", "cv2")
"""What the evaluator's Python must be able to import."""


@dataclass(frozen=True)
class Evaluator:
    """A program that drives the route of a file and writes the leaderboard's checkpoint."""

    command: tuple[str, ...]
    """Program and arguments, with names of ``PLACES`` in braces."""
    agent: Path
    """The agent file."""
    agent_config: str
    """What the agent's ``setup`` is given."""
    folder: Path
    """Working directory."""
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    python: str | None = None
    """The evaluator's Python, if its imports can be checked."""
    carla: Path | None = None
    """The simulator's folder, if the evaluator starts one there."""

    def __post_init__(self) -> None:
        names = {name for word in self.command for _, name, _, _ in string.Formatter().parse(word) if name}
        unknown, missing = names - {*PLACES}, {"routes", "checkpoint"} - names
        if unknown or missing:
            raise RequestError(
                f"the evaluator's command {shlex.join(self.command)!r} "
                + (f"names {{{'}, {'.join(sorted(unknown))}}}" if unknown else f"lacks {{{min(missing)}}}"),
                expected=f"{{routes}}, {{checkpoint}}, and what it needs of {', '.join(PLACES[2:])}",
                repair="correct --evaluator",
            )

    def filled(self, **places: object) -> list[str]:
        """Return the command of one attempt; ``places`` are all ``PLACES`` but the agent's two."""
        values = {**places, "agent": self.agent, "agent_config": self.agent_config}
        return [word.format(**values) for word in self.command]


def bench2drive(
    tree: Path, carla: Path, *, agent: Path | None = None, agent_config: str, python: str = "python"
) -> Evaluator:
    """Return Bench2Drive's evaluator.

    Args:
        tree: The folder of Bench2Drive.
        carla: The folder of CARLA.
        agent: The agent file; by default the one that ``teachonce agent`` writes.
        agent_config: Its configuration.
        python: The evaluator's Python, which is not this one.
    """
    tree, carla = tree.absolute(), carla.absolute()
    path = [carla / "PythonAPI", carla / "PythonAPI/carla"]
    path += sorted((carla / "PythonAPI/carla/dist").glob("carla-*-py3.7-linux-x86_64.egg"))
    path += [tree / "leaderboard", tree / "leaderboard/team_code", tree / "scenario_runner"]
    environment = {
        # What is meant for this Python would break another.
        **{name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")},
        "CARLA_ROOT": str(carla),
        "LEADERBOARD_ROOT": str(tree / "leaderboard"),
        "SCENARIO_RUNNER_ROOT": str(tree / "scenario_runner"),
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "CHALLENGE_TRACK_CODENAME": "SENSORS",
        "IS_BENCH2DRIVE": "True",
    }
    return Evaluator(
        command=(python, *shlex.split(LEADERBOARD)),
        agent=agent.absolute() if agent else tree / "leaderboard/team_code/teachonce_agent.py",
        agent_config=agent_config,
        folder=tree,
        environment=environment,
        python=python,
        carla=carla,
    )


def own_command(template: str, *, agent: Path, agent_config: str) -> Evaluator:
    """Return an evaluator with a command line of its user's, with names of ``PLACES`` in braces.

    Raises:
        RequestError: The template names other places, or lacks those of the route and its checkpoint.
    """
    try:
        command = tuple(shlex.split(template))
    except ValueError as error:
        raise RequestError(
            f"the evaluator's command {template!r} is no command: {error}",
            expected="a command line, quoted as for a shell",
            repair="correct --evaluator",
        ) from error
    return Evaluator(command, agent.absolute(), agent_config, Path.cwd())


def evaluator_of(
    tree: Path | None,
    carla: Path | None,
    template: str | None,
    *,
    agent: Path | None,
    agent_config: str | None,
    python: str,
) -> Evaluator:
    """Return the evaluator that a command line asks for: Bench2Drive's, or one of its user's.

    Raises:
        RequestError: It is not clear which, or what the agent is told.
    """
    if agent_config is None:
        raise RequestError(
            "--server is missing",
            expected="the policy server's address; for an agent of your own without one, --agent-config",
            repair="start `teachonce serve`, and give the address that it prints",
        )
    if template is not None and agent is not None and tree is None:
        return own_command(template, agent=agent, agent_config=agent_config)
    if template is None and tree is not None and carla is not None:
        return bench2drive(tree, carla, agent=agent, agent_config=agent_config, python=python)
    raise RequestError(
        "it is not clear which evaluator drives",
        expected="--bench2drive and --carla; or --evaluator and --agent",
        repair="give the folders of Bench2Drive and of CARLA",
    )


def in_python(evaluator: Evaluator, program: str, *arguments: str, limit_s: float) -> tuple[int, str]:
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


def last_line(text: str) -> str:
    """Return the last line that is not empty: of a traceback, what went wrong."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""

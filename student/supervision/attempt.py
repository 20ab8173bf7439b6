"""One attempt at one route: a tree of processes, watched until it ends or makes no progress."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cache_schema.errors import RequestError
from cache_schema.storage.atomic_io import write_durably
from student.supervision.marked import Tree
from student.supervision.outcomes import Outcome, outcome_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from student.supervision.evaluator import Evaluator
    from student.supervision.ports import SimulatorPorts
    from student.supervision.routes import Route

LOOK_S = 0.5
"""How often an evaluator is looked at."""
OF_RESULTS, OF_ATTEMPT = "TEACHONCE_RESULTS", "TEACHONCE_ATTEMPT"
"""Environment variables that mark what is started for a folder of results, and for one attempt."""


@dataclass(frozen=True)
class Attempt:
    """The files of an attempt, in a folder of its own."""

    folder: Path
    route: str

    @property
    def checkpoint(self) -> Path:
        """What the evaluator writes."""
        return self.folder / "checkpoint.json"

    @property
    def log(self) -> Path:
        """Its output."""
        return self.folder / "evaluator.log"

    @property
    def saved(self) -> Path:
        """What the agent writes."""
        return self.folder / "saved"

    def outcome(self) -> tuple[Outcome, str | None, str]:
        """Return how it ended, by what it left; see ``outcome_of``."""
        return outcome_of(self.checkpoint, self.log, self.route)


@dataclass(frozen=True)
class Ended:
    """How an attempt ended."""

    outcome: Outcome
    status: str | None
    """Of the record, if there is one."""
    failed: str
    """What failed, by the evaluator's output."""
    exit: int | None
    """The evaluator's exit status, negative for a signal."""
    wall_s: float
    left: list[int]
    """Processes that stay, although they were killed."""


def results_mark(results: Path) -> dict[str, str]:
    """Return the mark of all that is started for a folder of results."""
    return {OF_RESULTS: os.path.realpath(results)}


def run_attempt(
    attempt: Attempt,
    route: Route,
    evaluator: Evaluator,
    marks: dict[str, str],
    ports: SimulatorPorts,
    gpu: int,
    *,
    stuck_after_s: float,
    stopped: Callable[[], bool],
) -> Ended:
    """Drive a route, and leave nothing running.

    Args:
        attempt: Where its files go; its folder is there, and empty.
        route: The route.
        evaluator: The program.
        marks: Of the results.
        ports: Of the simulator.
        gpu: Of the simulator.
        stuck_after_s: Seconds without progress after which it is ended: no file of the attempt changes, but
            the evaluator's output, which a loop of failures lets grow, too.
        stopped: Whether to end it now.

    Raises:
        RequestError: The evaluator cannot be started.
    """
    document = attempt.folder / "route.xml"
    write_durably(document, route.document)
    attempt.saved.mkdir()
    places = {"routes": document, "checkpoint": attempt.checkpoint, "live": attempt.folder / "live.txt"}
    began = time.monotonic()
    command = evaluator.filled(**places, port=ports.rpc, traffic_manager_port=ports.traffic_manager, gpu=gpu)
    try:
        tree = Tree(
            command,
            marks | {OF_ATTEMPT: str(attempt.folder)},
            folder=evaluator.folder,
            environment={**evaluator.environment, "SAVE_PATH": str(attempt.saved)},
            log=attempt.log,
        )
    except OSError as error:
        raise RequestError(
            f"{command[0]} cannot be started in {evaluator.folder}: {error.strerror}",
            expected="the evaluator's program and working directory",
            repair="give the Python in which the leaderboard runs with --python, and its folder",
        ) from error
    try:
        why = _watch(tree, attempt, stuck_after_s, stopped)
    finally:
        exit_status, left = tree.end()
    outcome, status, failed = attempt.outcome()
    if outcome is not Outcome.FINISHED and why is not None:
        outcome = why
    return Ended(outcome, status, failed, exit_status, time.monotonic() - began, left)


def _watch(tree: Tree, attempt: Attempt, stuck_after_s: float, stopped: Callable[[], bool]) -> Outcome | None:
    seen, since = _state(attempt), time.monotonic()
    while tree.is_running():
        if stopped():
            return Outcome.INTERRUPTED
        if (state := _state(attempt)) != seen:
            seen, since = state, time.monotonic()
        if time.monotonic() - since > stuck_after_s:
            return Outcome.STUCK
        time.sleep(min(LOOK_S, stuck_after_s / 4))
    return None


def _state(attempt: Attempt) -> list[tuple[str, int, int]]:
    """Return what changes when the attempt makes progress."""
    state = []
    for folder, _, files in os.walk(attempt.folder):
        for name in files:
            path = os.path.join(folder, name)
            if path != str(attempt.log):
                try:
                    found = os.stat(path)
                except OSError:  # it was removed meanwhile
                    continue
                state.append((path, found.st_size, found.st_mtime_ns))
    return state

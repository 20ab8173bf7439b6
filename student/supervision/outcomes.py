"""How an attempt at a route ended, and the log of attempts.

``attempts.jsonl`` has two lines an attempt: ``{"event": "began", "route", "attempt", "time", "port",
"gpu"}`` and ``{"event": "ended", "route", "attempt", "time", "outcome", "status", "failed", "exit", "wall_s",
"left"}``. An attempt that only began was interrupted together with its supervisor. Lines ``{"event": "run",
...}`` tell of commands.
"""

from __future__ import annotations

import enum
import json
import re
from collections import Counter
from typing import TYPE_CHECKING

from cache_schema.storage.json_lines import read_json_lines

if TYPE_CHECKING:
    from pathlib import Path

ATTEMPTS = "attempts.jsonl"
SIMULATION_CRASHED = "Failed - Simulation crashed"
AGENT_FAILED = (
    "Failed - Agent crashed",
    "Failed - Agent couldn't be set up",
    "Failed - Agent's sensors were invalid",
)
"""Statuses that tell of the agent file or its surroundings, rather than of how it drove."""
UNFINISHED = "Started"
SERVER_AWAY = re.compile(r"^(?:\w+\.)*Server(?:Gone|Lost)\b", re.MULTILINE)
"""How a traceback ends when the agent lost its policy server, or the server its memory of the route."""
SIMULATOR_AWAY = re.compile(r"time-out of \d+ms while waiting for the simulator")
"""What CARLA's client raises if the simulator is dead. In an agent, it is recorded as the agent's crash."""
RAISED = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Z]\w*: .+")
"""A line of a traceback that says what was raised."""


class Outcome(enum.StrEnum):
    """How an attempt ended."""

    FINISHED = "finished"
    """The route has its record, however it scored."""
    CRASHED = "crashed"
    """The simulation crashed: by the leaderboard's record, or by what the agent raised."""
    ABSENT = "absent"
    """The evaluator ended without a record."""
    GONE = "gone"
    """The agent failed because the policy server went away."""
    STUCK = "stuck"
    """It made no progress, and was ended."""
    INTERRUPTED = "interrupted"
    """The supervisor was stopped. Such an attempt is not counted."""


def read_status(checkpoint: Path, route: str) -> str | None:
    """Return the status that a leaderboard's checkpoint has for a route; None if it has no whole record."""
    try:
        records = json.loads(checkpoint.read_bytes())["_checkpoint"]["records"]
        found = [record["status"] for record in records if f"_{route}_rep" in record["route_id"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found[0] if len(found) == 1 and found[0] != UNFINISHED else None


def outcome_of(checkpoint: Path, log: Path, route: str) -> tuple[Outcome, str | None, str]:
    """Return how an evaluator that has ended left a route, the status in its record, and what failed.

    Args:
        checkpoint: What it wrote.
        log: Its output.
        route: Id of the route.
    """
    status = read_status(checkpoint, route)
    if status is not None and status not in (SIMULATION_CRASHED, *AGENT_FAILED):
        return Outcome.FINISHED, status, ""
    text = log.read_text(errors="replace") if log.is_file() else ""
    failed = _failed(text)
    if status is None:
        return Outcome.ABSENT, None, failed
    if status == SIMULATION_CRASHED or SIMULATOR_AWAY.search(text):
        return Outcome.CRASHED, status, failed
    return Outcome.GONE if SERVER_AWAY.search(text) else Outcome.FINISHED, status, failed


def _failed(text: str) -> str:
    """Return what an evaluator's output says of a failure: the first exception, or else the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    raised = (line for line in lines if RAISED.fullmatch(line))
    if "Traceback (most recent call last):" in text:
        return next(raised, lines[-1])
    return lines[-1] if lines else ""


class History:
    """The attempts in a folder of results so far.

    Args:
        results: The folder.
    """

    def __init__(self, results: Path) -> None:
        lines = read_json_lines(results / ATTEMPTS, ("event", "route", "attempt"))
        ends = [line for line in lines if line["event"] == "ended"]
        self._results = results
        self.ends = Counter(str(end.get("outcome")) for end in ends)
        """Attempts by outcome."""
        self.last = {end["route"]: str(end.get("outcome")) for end in ends}
        """How the last attempt at a route ended."""
        self.numbers = Counter(line["route"] for line in lines if line["event"] == "began")
        """Attempts at a route that began."""
        self.counts = Counter(end["route"] for end in ends if end.get("outcome") != Outcome.INTERRUPTED)
        """Attempts at a route that count."""
        ended = {(end["route"], end["attempt"]) for end in ends}
        began = ((line["route"], line["attempt"]) for line in lines if line["event"] == "began")
        self.left_open = [attempt for attempt in began if attempt not in ended]
        """Attempts that began and have no end: route and number."""
        self._verdict = {
            end["route"]: end.get("outcome") for end in ends if end.get("outcome") != Outcome.INTERRUPTED
        }

    def add(self, route: str, outcome: Outcome) -> None:
        """Count an attempt that has ended."""
        self.ends[outcome] += 1
        self.last[route] = outcome
        if outcome is not Outcome.INTERRUPTED:
            self.counts[route] += 1
            self._verdict[route] = outcome

    def status(self, route: str) -> str | None:
        """Return the status of a route's record, if it has one."""
        return read_status(self._results / f"{route}.json", route)

    def is_done(self, route: str) -> bool:
        """Return whether a route has a record that stays."""
        status = self.status(route)
        if status is None:
            return False
        if route not in self._verdict:  # it was driven elsewhere
            return status != SIMULATION_CRASHED
        return self._verdict[route] == Outcome.FINISHED

"""Drive all routes of a file: workers beside each other, failures repeated, and the same command goes on.

A folder of results holds a checkpoint a route, ``<route>.json``, as the leaderboard's evaluator wrote it;
what the agent saved, in ``metrics``; the log ``attempts.jsonl``; ``drive.json``, under which conditions;
and a folder for every attempt, with the evaluator's output, in ``work``. A route is driven again only if
its attempt left no record, if the simulation crashed, or if the policy server went away: never for how it
scored.
"""

from __future__ import annotations

import shutil
import threading
import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cache_schema.errors import RequestError
from cache_schema.progress import SILENT
from cache_schema.storage.atomic_io import make_folder, write_durably
from cache_schema.storage.json_lines import JsonLines
from cache_schema.storage.locks import hold
from student.supervision.attempt import Attempt, Ended, results_mark, run_attempt
from student.supervision.conditions import keep_conditions
from student.supervision.marked import end_marked, keeping
from student.supervision.outcomes import AGENT_FAILED, ATTEMPTS, History, Outcome
from student.supervision.ports import Ports
from student.supervision.routes import read_routes
from student.supervision.schedule import Schedule
from student.supervision.summary import Driven, summarise

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cache_schema.progress import Progress
    from student.supervision.evaluator import Evaluator
    from student.supervision.routes import Route
    from student.supervision.server import ServerAddress

ATTEMPTS_A_ROUTE = 3
STUCK_AFTER_S = 900.0
"""The evaluator ends a tick of its own accord after 600 s, and an agent looks for its server for 300 s."""
BACKOFF_S = 30.0
"""What the evaluator itself waits for a simulator to start."""
SERVER_PATIENCE_S = 300.0
"""As an agent waits for a server that is started again."""
LOOK_S = 1.0
FAILURES = 3
"""On as many routes: fewer may be the routes' fault, more are hours lost."""


@dataclass(frozen=True)
class Limits:
    """When a drive gives up, and how long it waits."""

    attempts: int = ATTEMPTS_A_ROUTE
    """At one route, over all runs of the command; those that were interrupted do not count."""
    stuck_after_s: float = STUCK_AFTER_S
    """Without progress, an evaluator is ended."""
    backoff_s: float = BACKOFF_S
    """Before the second attempt at a route; twice as long before every further one."""
    server_patience_s: float = SERVER_PATIENCE_S
    """How long a policy server is waited for before all is stopped."""


def drive(
    routes: Path,
    results: Path,
    evaluator: Evaluator,
    *,
    server: ServerAddress | None = None,
    workers: int = 1,
    gpus: Sequence[int] = (0,),
    limits: Limits | None = None,
    conditions: Mapping[str, Any] | None = None,
    progress: Progress = SILENT,
) -> Driven:
    """Drive every route of a file that has no record yet, each in an evaluator process of its own.

    Whatever way this process ends, nothing that it started keeps running.

    Args:
        routes: The file of routes.
        results: Folder of results; made if it does not exist.
        evaluator: The program that drives a route.
        server: The policy server that must be there before an attempt begins.
        workers: Evaluators beside each other.
        gpus: Of their simulators, dealt out in turn.
        limits: When it gives up.
        conditions: What all results of a folder must have in common, such as the policy.
        progress: Is told of every attempt.

    Raises:
        RequestError: The evaluator cannot be started, the server is away, the agent fails on one route after
            another, or the folder has results of other conditions.
        DatasetError: Another run holds the folder.
    """
    listed = read_routes(routes)
    make_folder(results)
    mark = results_mark(results)
    with hold(results), keeping(mark):
        end_marked(mark)  # of a supervisor that was killed together with its keeper
        keep_conditions(results, conditions or {})
        with JsonLines(results / ATTEMPTS) as log:
            log.write(
                {
                    "event": "run",
                    "time": _now(),
                    "routes": str(routes),
                    "workers": workers,
                    "gpus": [*gpus],
                    "command": evaluator.command,
                }
            )
            run = _Run(results, evaluator, server, [*gpus], limits or Limits(), log, mark, progress)
            run.settle()
            run.works = any(run.history.is_done(route.id) for route in listed)
            pending = [route for route in listed if run.wants(route)]
            progress.expect(len(listed))
            progress.reach(len(listed) - len(pending))
            run.work_off(pending, workers)
    return summarise(results, listed)


class _Run:
    """The state that all workers share."""

    def __init__(
        self,
        results: Path,
        evaluator: Evaluator,
        server: ServerAddress | None,
        gpus: list[int],
        limits: Limits,
        log: JsonLines,
        mark: dict[str, str],
        progress: Progress,
    ) -> None:
        self.results, self.evaluator, self.server, self.gpus = results, evaluator, server, gpus
        self.limits, self.log, self.mark, self.progress = limits, log, mark, progress
        self.ports = Ports()
        self.schedule = Schedule(())
        self.writing = threading.Lock()
        self.history = History(results)
        self.agent_failures: list[str] = []
        """Routes in a row on which the agent itself failed."""
        self.without_end: set[str] = set()
        """Routes on which anything else failed."""
        self.works = False
        """Whether a route was ever driven to its end."""

    def settle(self) -> None:
        """Give the attempts that ended together with their supervisor their ends."""
        for route, number in self.history.left_open:
            attempt = self._attempt(route, number)
            outcome, status, failed = attempt.outcome()
            if outcome is not Outcome.FINISHED:
                outcome = Outcome.INTERRUPTED
            self._note_end(attempt, number, Ended(outcome, status, failed, None, 0.0, []))

    def wants(self, route: Route) -> bool:
        """Return whether a route needs an attempt, and may have one."""
        return not self.history.is_done(route.id) and self.history.counts[route.id] < self.limits.attempts

    def work_off(self, pending: list[Route], workers: int) -> None:
        """Drive routes until none is left that may have an attempt."""
        self.schedule = Schedule(pending)
        with ThreadPoolExecutor(workers) as pool:
            futures = [pool.submit(self._work, worker) for worker in range(workers)]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                self.schedule.stop()
        for future in futures:
            future.result()

    def _work(self, worker: int) -> None:
        while (route := self.schedule.take()) is not None:
            if not self._server_is_there():
                return
            ended = self._drive(route, self.gpus[worker % len(self.gpus)])
            if ended.outcome is Outcome.INTERRUPTED:
                return
            count = self.history.counts[route.id]
            if self.wants(route):
                self.schedule.again(route, self.limits.backoff_s * 2 ** (count - 1))
            else:
                self.schedule.done()
                self.progress.advance(1, f"{route.id}: {ended.status or ended.outcome}")
            if ended.failed:
                then = "again later" if self.wants(route) else "no further attempt"
                how = ended.status or ended.outcome
                self.progress.message(f"route {route.id}, attempt {count}: {how}; {then}; {ended.failed}")
            self._check_failures(route, ended)

    def _drive(self, route: Route, gpu: int) -> Ended:
        number = self.history.numbers[route.id] + 1
        while (attempt := self._attempt(route.id, number)).folder.exists():  # and its log was deleted
            number += 1
        self.history.numbers[route.id] = number
        make_folder(attempt.folder)
        with self.ports.lent() as ports:
            self._note("began", attempt, number, port=ports.rpc, gpu=gpu)
            ended = run_attempt(
                attempt,
                route,
                self.evaluator,
                self.mark,
                ports,
                gpu,
                stuck_after_s=self.limits.stuck_after_s,
                stopped=lambda: self.schedule.stopped,
            )
        self._note_end(attempt, number, ended)
        return ended

    def _note_end(self, attempt: Attempt, number: int, ended: Ended) -> None:
        if ended.outcome is not Outcome.INTERRUPTED and ended.status is not None:
            self._publish(attempt)
        self.history.add(attempt.route, ended.outcome)
        self._note(
            "ended",
            attempt,
            number,
            outcome=ended.outcome,
            status=ended.status,
            failed=ended.failed,
            exit=ended.exit,
            wall_s=round(ended.wall_s, 3),
            left=ended.left,
        )

    def _note(self, event: str, attempt: Attempt, number: int, **facts: object) -> None:
        line = {"event": event, "route": attempt.route, "attempt": number, "time": _now(), **facts}
        with self.writing:
            self.log.write(line)

    def _publish(self, attempt: Attempt) -> None:
        metrics = self.results / "metrics"
        make_folder(metrics)
        for saved in sorted(attempt.saved.glob("*")):
            shutil.rmtree(metrics / saved.name, ignore_errors=True)  # of an attempt before
            saved.rename(metrics / saved.name)
        write_durably(self.results / f"{attempt.route}.json", attempt.checkpoint.read_bytes())

    def _attempt(self, route: str, number: int) -> Attempt:
        return Attempt(self.results.absolute() / "work" / route / str(number), route)

    def _server_is_there(self) -> bool:
        """Wait for the policy server; return False if all was stopped meanwhile."""
        give_up = time.monotonic() + self.limits.server_patience_s
        while self.server is not None and not self.schedule.stopped and not self.server.answers():
            if time.monotonic() > give_up:
                raise self.server.silent(f"for {self.limits.server_patience_s:g} s")
            time.sleep(min(LOOK_S, self.limits.server_patience_s / 4))
        return not self.schedule.stopped

    def _check_failures(self, route: Route, ended: Ended) -> None:
        """Stop all where something is broken that no further attempt repairs."""
        with self.writing:
            if ended.outcome is Outcome.FINISHED and ended.status not in AGENT_FAILED:
                self.agent_failures.clear()
                self.works = True
            elif ended.outcome is Outcome.FINISHED:
                self.agent_failures.append(route.id)
            elif ended.outcome is not Outcome.GONE:
                self.without_end.add(route.id)
            agent_failures, without_end = self.agent_failures[:], sorted(self.without_end)
        log = self._attempt(route.id, self.history.numbers[route.id]).log
        if len(agent_failures) >= FAILURES:
            files = " ".join(str(self.results / f"{name}.json") for name in agent_failures)
            names = ", ".join(agent_failures)
            raise RequestError(
                f"{ended.status!r} on {len(agent_failures)} routes in a row, {names}: {ended.failed}",
                expected="an agent that drives, well or badly",
                repair=f"read {log}, repair the agent or its surroundings, and run this again: it drives the "
                f"other routes, and these, too, after `rm {files}`",
            )
        if len(without_end) >= FAILURES and not self.works:
            raise RequestError(
                f"no route was driven to its end, and {', '.join(without_end)} failed: {ended.failed}",
                expected="an evaluator and a simulator that run",
                repair=f"read {log}, repair what it tells, and run this again",
            )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

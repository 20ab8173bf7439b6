"""The supervisor itself is stopped, in every way: nothing keeps running, and the same command goes on."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from cli import app
from tests.paths import ROOT
from tests.student.supervision.driving import (
    NOTHING_LEFT,
    TEMPLATE,
    attempts,
    evaluator,
    left_over,
    running,
    status,
    write_routes,
)


def command(folder: Path, routes: Path, *more: str) -> list[str]:
    words = ["drive", "--out", folder / "results", "--routes", routes]
    words += ["--evaluator", TEMPLATE, "--agent", evaluator(folder).agent]
    return [*map(str, words), "--workers", "2", "--backoff", "0.01", "--agent-config", "", *more]


def start(folder: Path, routes: Path, *more: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "cli.py", *command(folder, routes, *more)],
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(condition: Callable[[], object], process: subprocess.Popen | None = None) -> None:
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.02)


def ticking(results: Path) -> bool:
    """Whether both routes were begun, and their agents save something."""
    return len([file for file in results.glob("work/*/1/saved/*/*") if file.stat().st_size]) == 2


def keepers(process: subprocess.Popen) -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process(process.pid).children()
        if any(word.endswith("supervision/marked.py") for word in child.cmdline())
    ]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_stops_it_nothing_keeps_running_and_the_same_command_goes_on(tmp_path, how):
    routes = write_routes(tmp_path / "r.xml", {"1": "drive on,finish", "2": "drive on,crash,crash,finish"})
    results = tmp_path / "results"
    process = start(tmp_path, routes)
    until(lambda: ticking(results), process)
    os.killpg(process.pid, how)  # as a terminal sends Ctrl-C to all of its group
    _, err = process.communicate()
    assert process.returncode == (130 if how == signal.SIGINT else -how), err
    if how == signal.SIGINT:
        assert err.splitlines()[-1].startswith("stopped; ")
        assert running(tmp_path) == []
    until(lambda: not running(tmp_path))
    again = CliRunner().invoke(app, command(tmp_path, routes))
    assert again.exit_code == 0, again.output
    # An attempt that was interrupted takes none of the three away.
    assert attempts(results) == {
        "1": ["interrupted", "finished"],
        "2": ["interrupted", "crashed", "crashed", "finished"],
    }
    assert "2 crashed, 2 finished, 2 interrupted" in again.stdout
    assert running(tmp_path) == []


def test_with_its_keeper_killed_too_the_next_run_ends_what_is_left(tmp_path):
    routes = write_routes(tmp_path / "r.xml", {"1": "hang after", "2": "drive on,finish"})
    results = tmp_path / "results"
    process = start(tmp_path, routes)
    # The keeper, and two evaluators, each with a simulator of two processes.
    until(lambda: ticking(results) and len(running(tmp_path)) == 7, process)
    until(lambda: (results / "work/1/1/checkpoint.json").stat().st_size, process)
    (keeper,) = keepers(process)
    keeper.kill()
    process.kill()
    process.communicate()
    orphans = running(tmp_path)
    assert len([words for words in orphans if "evaluator.py" in words]) == 2
    assert len(orphans) == 6
    again = CliRunner().invoke(app, command(tmp_path, routes))
    assert again.exit_code == 0, again.output
    assert running(tmp_path) == []
    assert left_over(results) == NOTHING_LEFT
    # The first had its record already: a route is not driven again that has one.
    assert attempts(results) == {"1": ["finished"], "2": ["interrupted", "finished"]}
    assert status(results, "1") == "Completed"
    assert (results / "metrics/RouteScenario_1_rep0/metric_info.json").is_file()


def test_other_processes_are_left_alone(tmp_path):
    """A stranger's simulator, and one of another folder of results."""
    names = {"stranger": {}, "other": {"TEACHONCE_RESULTS": str(tmp_path / "results-2")}}
    sleeping = [sys.executable, "-c", "import time; time.sleep(600)"]
    others = [subprocess.Popen(sleeping, env=os.environ | marks) for marks in names.values()]
    try:
        routes = write_routes(tmp_path / "r.xml", {"1": "killed,finish", "2": "finish"})
        done = CliRunner().invoke(app, command(tmp_path, routes))
        assert done.exit_code == 0, done.output
        assert [other.poll() for other in others] == [None, None]
    finally:
        for other in others:
            other.kill()
            other.wait()


@pytest.mark.soak
def test_fifty_kills_at_any_moment(tmp_path):
    """Of the supervisor, its keeper, evaluators and simulators; every route gets one record."""
    chance = random.Random(0)
    behaviours = ["finish", "blocked", "die,finish", "crash,finish", "hang after", "slow", "gone,cut,finish"]
    routes = write_routes(tmp_path / "r.xml", {str(route): chance.choice(behaviours) for route in range(40)})
    results = tmp_path / "results"
    more = ["--workers", "3", "--attempts", "60", "--stuck-after", "8"]
    process = start(tmp_path, routes, *more)
    for _ in range(50):
        time.sleep(chance.uniform(0, 2))
        victims = [
            process.pid,
            *(child.pid for child in psutil.Process(process.pid).children(recursive=True)),
        ]
        for victim in chance.sample(victims, min(len(victims), chance.choice([1, 1, 2]))):
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        time.sleep(0.2)
        if process.poll() is not None:
            process.communicate()
            process = start(tmp_path, routes, *more)
    process.communicate()
    last = start(tmp_path, routes, *more)
    shown, err = last.communicate()
    assert last.returncode == 0, (shown, err)
    assert running(tmp_path) == []
    assert left_over(results) == NOTHING_LEFT
    ends = attempts(results)
    assert len(ends) == 40
    assert any("interrupted" in outcomes for outcomes in ends.values())
    assert all(outcomes.count("finished") == 1 and outcomes[-1] == "finished" for outcomes in ends.values())
    assert {status(results, route) for route in ends} <= {"Completed", "Failed - Agent got blocked"}

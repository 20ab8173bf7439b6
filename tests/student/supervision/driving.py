"""Routes whose attempts end as it is said, and what a drive of them left behind."""

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from student.supervision.evaluator import Evaluator, own_command

EVALUATOR = Path(__file__).with_name("evaluator.py")
TEMPLATE = (
    f"{shlex.quote(sys.executable)} {shlex.quote(str(EVALUATOR))} --routes={{routes}} "
    "--checkpoint={checkpoint} --agent={agent} --agent-config={agent_config} --port={port} --gpu-rank={gpu}"
)


def write_routes(path: Path, behaviours: Mapping[str, str]) -> Path:
    """Write routes with their behaviours: one an attempt, with commas between, the last for all further."""
    routes = [
        f'<route id="{name}" town="Town12"><waypoints><position x="1" y="2" z="0"/></waypoints><scenarios>'
        + "".join(f'<scenario name="a_1" type="{behaviour}"/>' for behaviour in listed.split(","))
        + "</scenarios></route>"
        for name, listed in behaviours.items()
    ]
    path.write_text(f"<routes>{''.join(routes)}</routes>")
    return path


def evaluator(folder: Path) -> Evaluator:
    agent = folder / "agent.py"
    agent.write_text("def get_entry_point():\n    return 'Agent'\n")
    return own_command(TEMPLATE, agent=agent, agent_config="tcp://127.0.0.1:1")


def attempts(results: Path, event: str = "ended") -> dict[str, list[Any]]:
    """Outcomes of every route's attempts, in their order; or the lines of another event."""
    found: dict[str, list[Any]] = {}
    for line in (results / "attempts.jsonl").read_text().splitlines():
        value = json.loads(line)
        if value["event"] == event:
            found.setdefault(value["route"], []).append(value["outcome"] if event == "ended" else value)
    return found


def status(results: Path, route: str) -> str:
    (record,) = json.loads((results / f"{route}.json").read_text())["_checkpoint"]["records"]
    return record["status"]


def running(folder: Path) -> list[str]:
    """Processes, the supervisor apart, whose command line names what is in a folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(str(folder) in word for word in words) and "cli.py" not in " ".join(words):
            found.append(" ".join(words)[:300])
    return found

"""Routes whose attempts end as it is said, and what a drive of them left behind."""

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from student.supervision.evaluator import Evaluator, own_command
from tests.student.supervision import evaluator as evaluator_script

EVALUATOR = Path(evaluator_script.__file__)
NOTHING_LEFT = {"left of earlier attempts: 0"}
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
    return [words for words in evaluator_script.running(folder) if "cli.py" not in words]


def left_over(results: Path) -> set[str]:
    """What the evaluators found running of earlier attempts at their routes when they began."""
    logs = [log.read_text() for log in results.glob("work/*/*/evaluator.log")]
    return {line for log in logs for line in log.splitlines() if line.startswith("left of")}

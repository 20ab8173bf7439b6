"""Drives the agents beside this file."""

import json
from pathlib import Path

from pipeline.bench2drive.rehearsal.leaderboard import drive_route
from pipeline.bench2drive.synthetic.manoeuvres import MANOEUVRES

AGENTS = Path(__file__).parent / "agents"
TRUE_PLAN, SCRIPTED = AGENTS / "true_plan.py", AGENTS / "scripted.py"
STILL, FULL_AHEAD, FULL_LEFT = (0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (1.0, -1.0, 0.0)


def toy_of(scenario):
    """Index of a scenario among toys."""
    return list(MANOEUVRES).index(scenario)


def scripted(control=STILL, **script):
    return json.dumps({"control": control, **script})


def drive(agent, world, configuration=""):
    return drive_route(agent, configuration, world)


def infractions(record):
    """Kinds that occurred, apart from comparisons of speed."""
    return {
        kind: found
        for kind, found in record["infractions"].items()
        if found and kind != "min_speed_infractions"
    }

"""The recorded drives of ORION's agent."""

import json
from typing import Any

import numpy as np

from student.closed_loop.inputs import RoutePlan, Sensors
from tests.paths import GOLDEN

AGENT = GOLDEN / "closed_loop" / "agent"
DRIVES = sorted(AGENT.glob("drive_*.json"))


def read(name: str) -> Any:
    return json.loads((AGENT / name).read_text())


def route_plan(drive: dict) -> RoutePlan:
    gps, world = np.array(drive["plan_gps"]), np.array(drive["plan_world"])
    return RoutePlan(gps[:, :3], world[:, :3], world[:, 3].astype(int))


def sensors(step: int, tick: dict) -> Sensors:
    """Null is NaN; the agent reads no altitude, and none is recorded."""
    read = tick["in"]
    gps = np.array([*read["gps"][:2], 0.0])
    return Sensors(step, gps, np.array(read["imu"], dtype=float), read["speed"])

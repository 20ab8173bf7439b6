"""The leaderboard's results file: the record of a route, and what stands around it.

Source: spec closed loop 4.1, spec Bench2Drive 5.2 and 5.3.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from pipeline.bench2drive.rehearsal.world import TICK_S

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.bench2drive.rehearsal.world import World

INFRACTIONS = {
    "collisions_layout": 0.65,
    "collisions_pedestrian": 0.5,
    "collisions_vehicle": 0.6,
    "red_light": 0.7,
    "stop_infraction": 0.8,
    "outside_route_lanes": 1.0,
    "min_speed_infractions": 1.0,
    "yield_emergency_vehicle_infractions": 0.7,
    "scenario_timeouts": 0.7,
    "route_dev": 1.0,
    "vehicle_blocked": 1.0,
    "route_timeout": 1.0,
}
"""Kind of an event -> factor of the penalty for each. The way outside of the lanes is a factor of its own."""

FAILURES = {
    "route_dev": "Agent deviated from the route",
    "vehicle_blocked": "Agent got blocked",
}
"""Kind of an event that ends a route -> why the route failed."""

SIMULATION_CRASHED = "Simulation crashed"
AGENT_CRASHED = "Agent crashed"
NOT_SET_UP = "Agent couldn't be set up"
SENSORS_INVALID = "Agent's sensors were invalid"
TICK_RUNTIME = "TickRuntime"

ENTRY_STATUS = {SIMULATION_CRASHED: "Crashed", SENSORS_INVALID: "Rejected"}
"""Why a route failed -> status of the whole file; otherwise it is finished."""

_PER_KILOMETRE = (
    ("collisions_pedestrian", "Collisions with pedestrians"),
    ("collisions_vehicle", "Collisions with vehicles"),
    ("collisions_layout", "Collisions with layout"),
    ("red_light", "Red lights infractions"),
    ("stop_infraction", "Stop sign infractions"),
    ("outside_route_lanes", "Off-road infractions"),
    ("route_dev", "Route deviations"),
    ("route_timeout", "Route timeouts"),
    ("vehicle_blocked", "Agent blocked"),
    ("yield_emergency_vehicle_infractions", "Yield emergency vehicles infractions"),
    ("scenario_timeouts", "Scenario timeouts"),
    ("min_speed_infractions", "Min speed infractions"),
)
_SCORES = (
    ("score_composed", "Avg. driving score"),
    ("score_route", "Avg. route completion"),
    ("score_penalty", "Avg. infraction penalty"),
)


def record_of(
    world: World, *, save_name: str, repetition: int, failure: str, seconds: float
) -> dict[str, Any]:
    """Return a route's record.

    Args:
        world: After the route.
        save_name: The route's name for the agent.
        repetition: From 0.
        failure: Why the route ended before its goal, unless events say so themselves.
        seconds: That the route took in reality.
    """
    route = world.route
    infractions: dict[str, list[str]] = {kind: [] for kind in INFRACTIONS}
    penalty = 1.0
    for event in world.events:
        infractions[event.kind].append(event.message)
        penalty *= INFRACTIONS[event.kind] * (1 - event.outside_percent / 100)
        failure = FAILURES.get(event.kind, failure)
    events = sum(map(len, infractions.values()))
    if world.completion >= 100:
        status = "Completed" if events else "Perfect"
    else:
        status = f"Failed - {failure}" if failure else "Failed"
    return {
        "index": 0,
        "route_id": f"RouteScenario_{route.id}_rep{repetition}",
        "scenario_name": f"{route.scenario}_1",
        "weather_id": str(route.weather),
        "save_name": save_name,
        "status": status,
        "num_infractions": events,
        "infractions": infractions,
        "scores": {
            "score_route": round(world.completion, 6),
            "score_penalty": round(penalty, 6),
            "score_composed": round(max(world.completion * penalty, 0.0), 6),
        },
        "meta": {
            "route_length": round(float(route.along[-1]), 3),
            "duration_game": round(world.tick * TICK_S, 3),
            "duration_system": round(seconds, 3),
        },
        "town_name": route.town,
    }


class Checkpoint:
    """The results file of an evaluator's process.

    Args:
        path: The file.
        routes: How many routes the process drives.
        kind: Of the rehearsal. The file says it, lest a toy's score be taken for Bench2Drive's.
    """

    def __init__(self, path: Path, routes: int, kind: str) -> None:
        self.path = path
        self.kind = kind
        self.routes = routes
        self.sensors: list[str] = []
        self.records: list[dict[str, Any]] = []
        self.write()

    def add(self, record: dict[str, Any]) -> None:
        """Append a route's record, and write the file."""
        self.records.append(record | {"index": len(self.records)})
        self.write()

    def write(self, *, finished: bool = False) -> None:
        """Write the file: as it is while routes are driven, or as it is in the end."""
        failures = [record["status"].removeprefix("Failed - ") for record in self.records]
        statuses = [ENTRY_STATUS[failure] for failure in failures if failure in ENTRY_STATUS]
        status = statuses[0] if statuses else "Finished" if finished else "Started"
        # The leaderboard sums up nothing where it stopped.
        summary = _summary(self.records, self.routes) if finished and not statuses else {}
        results = {
            "_checkpoint": {
                "global_record": summary,
                "progress": [len(self.records), self.routes],
                "records": self.records,
            },
            "entry_status": status,
            "eligible": status == "Finished",
            "sensors": self.sensors,
            "values": _values(summary),
            "labels": [label for _, label in (*_SCORES, *_PER_KILOMETRE)] if summary else [],
            "rehearsal": self.kind,
        }
        partial = self.path.with_name(f".{self.path.name}.partial")
        partial.write_text(json.dumps(results, indent=4), "utf-8")
        os.replace(partial, self.path)


def _summary(records: Sequence[dict[str, Any]], routes: int) -> dict[str, Any]:
    scores = {name: [record["scores"][name] for record in records] for name, _ in _SCORES}
    mean = {name: round(sum(values) / routes, 6) for name, values in scores.items()}
    deviation = {
        name: 0
        if routes == 1
        else round((sum((value - mean[name]) ** 2 for value in values) / (routes - 1)) ** 0.5, 3)
        for name, values in scores.items()
    }
    driven_km = max(
        sum(
            record["meta"]["route_length"] / 1000 * record["scores"]["score_route"] / 100
            for record in records
        ),
        0.001,
    )
    infractions = {
        kind: round(
            sum(map(_kilometres_outside, records))
            if kind == "outside_route_lanes"
            else sum(len(record["infractions"][kind]) for record in records) / driven_km,
            3,
        )
        for kind in INFRACTIONS
    }
    failed = [record for record in records if record["status"].startswith("Failed")]
    perfect = all(record["status"] == "Perfect" for record in records)
    return {
        "index": -1,
        "route_id": -1,
        "status": "Failed" if failed else "Perfect" if perfect else "Completed",
        "infractions": infractions,
        "scores_mean": mean,
        "scores_std_dev": deviation,
        "meta": {
            "total_length": sum(record["meta"]["route_length"] for record in records),
            "duration_game": sum(record["meta"]["duration_game"] for record in records),
            "duration_system": sum(record["meta"]["duration_system"] for record in records),
            "exceptions": [[record["route_id"], record["index"], record["status"]] for record in failed],
        },
    }


def _kilometres_outside(record: dict[str, Any]) -> float:
    messages = record["infractions"]["outside_route_lanes"]
    return sum(float(message.partition("about ")[2].partition(" meters")[0]) for message in messages) / 1000


def _values(summary: dict[str, Any]) -> list[str]:
    if not summary:
        return []
    scores = [summary["scores_mean"][name] for name, _ in _SCORES]
    return [str(value) for value in (*scores, *(summary["infractions"][kind] for kind, _ in _PER_KILOMETRE))]

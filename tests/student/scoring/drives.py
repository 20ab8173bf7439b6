"""Records as the leaderboard writes them, and files of them."""

import json
from pathlib import Path
from typing import Any

KINDS = (
    "collisions_layout",
    "collisions_pedestrian",
    "collisions_vehicle",
    "red_light",
    "stop_infraction",
    "outside_route_lanes",
    "min_speed_infractions",
    "yield_emergency_vehicle_infractions",
    "scenario_timeouts",
    "route_dev",
    "vehicle_blocked",
    "route_timeout",
)


def record(
    route, scenario, town, *, repetition=0, score=100.0, completion=100.0, status="Completed", **events
):
    """A record of one drive; ``events`` are messages by infraction."""
    return {
        "index": 0,
        "route_id": f"RouteScenario_{route}_rep{repetition}",
        "scenario_name": f"{scenario}_1",
        "weather_id": "0",
        "save_name": f"RouteScenario_{route}_rep{repetition}_{town}_{scenario}_1_0_01_02_03_04_05",
        "status": status,
        "infractions": {kind: events.get(kind, []) for kind in KINDS},
        "scores": {"score_route": completion, "score_penalty": 1.0, "score_composed": score},
        "meta": {"route_length": 100.0, "duration_game": 20.0, "duration_system": 60.0},
        "town_name": town,
    }


def checkpoint(path: Path, *records: dict[str, Any], **top: Any) -> Path:
    """A file of the leaderboard with these records."""
    content = {
        "_checkpoint": {
            "global_record": {},
            "progress": [len(records), len(records)],
            "records": list(records),
        },
        "entry_status": "Finished",
        **top,
    }
    path.write_text(json.dumps(content))
    return path


def routes_file(path: Path, *routes: tuple[str, str, str]) -> Path:
    """A file of routes: id, town, scenario type."""
    inside = "".join(
        f'<route id="{name}" town="{town}"><waypoints/><scenarios><scenario name="x" type="{kind}"/>'
        '<scenario name="y" type="Another"/></scenarios></route>'
        for name, town, kind in routes
    )
    path.write_text(f"<routes>{inside}</routes>")
    return path

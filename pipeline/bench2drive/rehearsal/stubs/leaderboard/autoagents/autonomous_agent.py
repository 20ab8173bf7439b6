"""The class that agents derive from (spec: closed loop, section 2)."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

from cache_schema.vocabulary.route import downsample

if TYPE_CHECKING:
    from pipeline.bench2drive.rehearsal.world import Control, World

hero: World | None = None
"""The world of the route, where an agent finds its vehicle."""


class Track(Enum):
    """What an agent may know."""

    SENSORS = "SENSORS"
    MAP = "MAP"
    SENSORS_QUALIFIER = "SENSORS_QUALIFIER"
    MAP_QUALIFIER = "MAP_QUALIFIER"


class AutonomousAgent:
    """One instance drives one route."""

    def __init__(self, carla_host: str, carla_port: int, debug: bool = False) -> None:
        self.track = Track.SENSORS
        assert hero is not None, "an agent is made for a route"
        self.hero_actor = hero
        """In a rehearsal, the world itself: agents of tests read from it what no sensor says."""

    def setup(self, path_to_conf_file: str) -> None:
        """Prepare for the route."""

    def sensors(self) -> list[dict[str, Any]]:
        """Return the sensors to mount."""
        return []

    def run_step(self, input_data: dict[str, tuple[int, Any]], timestamp: float) -> Control:
        """Return the control of a tick."""
        raise NotImplementedError

    def destroy(self) -> None:
        """Leave the route."""

    def __call__(self, input_data: dict[str, tuple[int, Any]], timestamp: float) -> Control:
        """Drive one tick."""
        control: Any = self.run_step(input_data, timestamp)
        control.manual_gear_shift = False
        return control

    def set_global_plan(self, global_plan_gps: list[Any], global_plan_world_coord: list[Any]) -> None:
        """Keep some nodes of the plan."""
        places = [transform.location for transform, _ in global_plan_world_coord]
        options = [option for _, option in global_plan_world_coord]
        kept = downsample([(place.x, place.y, place.z) for place in places], options)
        self._global_plan_world_coord = [global_plan_world_coord[node] for node in kept]
        self._global_plan = [global_plan_gps[node] for node in kept]
        self._plan_gps_HACK = global_plan_gps

    def get_metric_info(self) -> dict[str, list[float]]:
        """Return the ego's motion."""
        return self.hero_actor.metric_info()

"""A leaderboard without CARLA: it drives an agent file along routes, by the real one's rules.

One agent instance a route, in this order: made, given its plan, set up, asked for its sensors, called tick by
tick, and destroyed. Source: spec closed loop 2.

Dimension letters: T ticks.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import math
import os
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cache_schema.errors import RequestError, TeachonceError
from cache_schema.vocabulary.driving import TRAJECTORY_STEPS
from cache_schema.vocabulary.route import RoadOption
from pipeline.bench2drive.rehearsal.results import (
    AGENT_CRASHED,
    ENTRY_STATUS,
    NOT_SET_UP,
    SENSORS_INVALID,
    SIMULATION_CRASHED,
    TICK_RUNTIME,
    Checkpoint,
    record_of,
)
from pipeline.bench2drive.rehearsal.world import LONGEST_TICKS, TICK_S, geographic

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
    from types import ModuleType

    from pipeline.bench2drive.rehearsal.world import RouteTask, World

STUBS = Path(__file__).parent / "stubs"
"""What an agent imports of CARLA and the leaderboard, ahead of anything installed."""
STAND_INS = Path(__file__).parent / "stand_ins"
"""What an agent imports of the evaluator's Python, behind anything installed."""

HOST, PORT = "localhost", 2000
TRACK = "SENSORS"

SENSOR_ICONS = {
    "sensor.camera.rgb": "carla_camera",
    "sensor.lidar.ray_cast": "carla_lidar",
    "sensor.other.radar": "carla_radar",
    "sensor.other.gnss": "carla_gnss",
    "sensor.other.imu": "carla_imu",
    "sensor.speedometer": "carla_speedometer",
}
"""Sensors of the track, and their names in results."""
MOST_SENSORS = {
    "sensor.camera.rgb": 8,
    "sensor.lidar.ray_cast": 2,
    "sensor.other.radar": 4,
    "sensor.other.gnss": 1,
    "sensor.other.imu": 1,
    "sensor.speedometer": 1,
}
FARTHEST_MOUNT_M, FARTHEST_MOUNT_SAVING_M = 3.0, 100.0
"""From the ego's origin; the second where the variable SAVE_PATH is set."""


@dataclass(frozen=True, eq=False)
class RouteDrive:
    """What came of a route."""

    record: dict[str, Any]
    """Of the results file."""
    sensors: tuple[str, ...]
    """Names of the agent's sensors in results."""
    poses: np.ndarray
    """(T, 4) x, y, yaw, speed before every tick: UE world, metres, degrees, m/s."""
    controls: np.ndarray
    """(T, 3) throttle, steer, brake."""
    plans: np.ndarray
    """(T, 6, 2) the "plan" of the agent's ``last_answer``: metres, LiDAR frame; NaN where it keeps none."""
    route: RouteTask
    """Where it should have gone."""
    failure: str
    """Why the leaderboard stopped the route, as in the record's status; empty where the world did."""


class SensorsInvalidError(Exception):
    """An agent's sensors break the leaderboard's rules."""


@contextlib.contextmanager
def agent_module(file: Path) -> Generator[ModuleType]:
    """Import an agent file, with stub modules in the place of CARLA and the leaderboard.

    Raises:
        RequestError: There is no such file, or it cannot be imported.
    """
    hidden = {name: module for name, module in sys.modules.items() if _is_stubbed(name)}
    for name in hidden:
        del sys.modules[name]
    path = list(sys.path)
    sys.path[:] = [str(STUBS), *path, str(file.parent), str(STAND_INS)]
    importlib.invalidate_caches()
    try:
        yield _imported(file)
    finally:
        sys.path[:] = path
        for name in [name for name in sys.modules if _is_stubbed(name)]:
            del sys.modules[name]
        sys.modules.update(hidden)


def _is_stubbed(name: str) -> bool:
    return name.partition(".")[0] in ("carla", "leaderboard")


def _imported(file: Path) -> ModuleType:
    try:
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the file does
        raise RequestError(
            f"the agent file {file} cannot be imported: {type(error).__name__}: {error}",
            expected="a file of Python with get_entry_point(), as Bench2Drive loads it",
            repair="correct the file; `teachonce agent DIR` writes one",
        ) from error
    return module


def drive_route(
    agent: ModuleType, configuration: str, world: World, *, repetition: int = 0, check_sensors: bool = True
) -> RouteDrive:
    """Drive one route.

    Args:
        agent: An imported agent file, within ``agent_module``.
        configuration: The agent's; the route's name is appended.
        world: Where to drive; its route has not begun.
        repetition: From 0.
        check_sensors: Whether the rules for sensors are applied; the leaderboard does so once a process.

    Raises:
        TeachonceError: The agent asks for what a rehearsal does not have.
    """
    began = time.monotonic()
    name = _save_name(world.route, repetition)
    log = _Log()
    failure, sensors, instance = "", (), None
    try:
        instance = _made(agent, world)
        instance.setup(f"{configuration}+{name}")
        mounted = instance.sensors()
        if check_sensors:
            _check_sensors(mounted, instance.track)
        sensors = tuple(SENSOR_ICONS.get(sensor["type"], "") for sensor in mounted)
    except SensorsInvalidError:
        failure = SENSORS_INVALID
        traceback.print_exc()
    except Exception:  # noqa: BLE001, whatever the agent does
        failure = NOT_SET_UP
        traceback.print_exc()
    else:
        failure = _run(instance, mounted, world, log)
        world.finish()
    if instance is not None:
        try:
            instance.destroy()
        except Exception:  # noqa: BLE001, the leaderboard goes on
            traceback.print_exc()
    record = record_of(
        world, save_name=name, repetition=repetition, failure=failure, seconds=time.monotonic() - began
    )
    return RouteDrive(
        record,
        sensors,
        np.array(log.poses).reshape(-1, 4),
        np.array(log.controls).reshape(-1, 3),
        np.array(log.plans).reshape(-1, TRAJECTORY_STEPS, 2),
        world.route,
        failure,
    )


def evaluate(
    agent_file: Path, configuration: str, worlds: Iterable[World], checkpoint: Checkpoint
) -> Iterator[RouteDrive]:
    """Drive routes one after the other, as a process of the evaluator does, and write its results file.

    Like it, stop where the simulation crashed, or the sensors are invalid.

    Raises:
        RequestError: The agent file cannot be imported, or asks for what a rehearsal does not have.
    """
    with agent_module(agent_file) as module:
        for number, world in enumerate(worlds):
            done = drive_route(module, configuration, world, check_sensors=number == 0)
            # The evaluator appends to its own argument: the next agent is told all names so far.
            configuration = f"{configuration}+{done.record['save_name']}"
            checkpoint.sensors = checkpoint.sensors or list(done.sensors)
            checkpoint.add(done.record)
            yield done
            if done.failure in ENTRY_STATUS:
                break
        checkpoint.write(finished=True)


class _Log:
    def __init__(self) -> None:
        self.poses: list[Sequence[float]] = []
        self.controls: list[Sequence[float]] = []
        self.plans: list[np.ndarray] = []


def _save_name(route: RouteTask, repetition: int) -> str:
    scenario = f"{route.scenario}_1"
    now = datetime.now().strftime("%m_%d_%H_%M_%S")
    return f"RouteScenario_{route.id}_rep{repetition}_{route.town}_{scenario}_{route.weather}_{now}"


def _made(agent: ModuleType, world: World) -> Any:
    """Make an agent for a route, and tell it the plan."""
    carla = importlib.import_module("carla")
    base: Any = importlib.import_module("leaderboard.autoagents.autonomous_agent")
    base.hero = world
    instance = getattr(agent, agent.get_entry_point())(HOST, PORT, 0)
    route = world.route
    options = [RoadOption(int(option)) for option in route.options]
    places = geographic(route.positions, route.reference).tolist()
    gps = [
        (dict(zip(("lat", "lon", "z"), place, strict=True)), option)
        for place, option in zip(places, options, strict=True)
    ]
    world_plan = [
        (carla.Transform(carla.Location(*position), carla.Rotation(yaw=yaw)), option)
        for position, yaw, option in zip(route.positions.tolist(), route.yaw.tolist(), options, strict=True)
    ]
    instance.set_global_plan(gps, world_plan)
    return instance


def _run(instance: Any, sensors: Sequence[Mapping[str, Any]], world: World, log: _Log) -> str:
    """Drive until the world or the leaderboard ends the route; return why the latter did."""
    try:
        world.attach(sensors)
        while not world.over:
            if world.tick >= LONGEST_TICKS:
                return TICK_RUNTIME
            log.poses.append(world.pose)
            try:
                control = instance(world.tick * TICK_S)
                driven = [float(value) for value in (control.throttle, control.steer, control.brake)]
            except Exception:  # noqa: BLE001, whatever the agent does
                log.poses.pop()
                traceback.print_exc()
                return AGENT_CRASHED
            log.controls.append(driven)
            answer = getattr(instance, "last_answer", None)
            nothing = np.full((TRAJECTORY_STEPS, 2), math.nan)
            log.plans.append(np.array(answer["plan"], float) if answer and "plan" in answer else nothing)
            world.apply(control)
    except TeachonceError:
        raise
    except Exception:  # noqa: BLE001, as in the leaderboard: all else is the simulator's fault
        traceback.print_exc()
        return SIMULATION_CRASHED
    return ""


def _check_sensors(sensors: Sequence[Mapping[str, Any]], track: Any) -> None:
    if track.value != TRACK:
        raise SensorsInvalidError(f"the agent is for the track {track.value}, and this is {TRACK}")
    farthest = FARTHEST_MOUNT_SAVING_M if os.environ.get("SAVE_PATH") else FARTHEST_MOUNT_M
    for sensor in sensors:
        if sensor["type"] not in MOST_SENSORS:
            raise SensorsInvalidError(f"{sensor['type']} is none of {', '.join(MOST_SENSORS)}")
        if {"x", "y", "z"} <= sensor.keys() and math.hypot(*(sensor[key] for key in "xyz")) > farthest:
            raise SensorsInvalidError(f"{sensor['id']} is mounted farther than {farthest} m")
    twice = [name for name, count in Counter(sensor["id"] for sensor in sensors).items() if count > 1]
    if twice:
        raise SensorsInvalidError(f"several sensors are called {', '.join(twice)}")
    for kind, count in Counter(sensor["type"] for sensor in sensors).items():
        if count > MOST_SENSORS[kind]:
            raise SensorsInvalidError(f"{count} of {kind}, and {MOST_SENSORS[kind]} are allowed")

"""A leaderboard without CARLA: it drives an agent file along routes, by the real one's rules.

One agent instance a route, in this order: made, given its plan, set up, asked for its sensors, called tick by
tick, and destroyed. Source: spec closed loop 2.

Dimension letters: T ticks, N points of an edge, A road users and things.
"""

from __future__ import annotations

import importlib
import math
import time
import traceback
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from cache_schema.errors import TeachonceError
from cache_schema.vocabulary.driving import TRAJECTORY_STEPS
from cache_schema.vocabulary.route import RoadOption
from pipeline.bench2drive.rehearsal.agent_module import agent_module
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
from pipeline.bench2drive.rehearsal.sensor_rules import SENSOR_ICONS, SensorsInvalidError, check
from pipeline.bench2drive.rehearsal.world import LONGEST_TICKS, TICK_S, geographic

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path
    from types import ModuleType

    from pipeline.bench2drive.rehearsal.world import Control, RouteTask, World

HOST, PORT = "localhost", 2000


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
    road: np.ndarray
    """(2, N, 2) left and right edge of the road, UE world, metres; (2, 0, 2) where the world knows none."""
    others: np.ndarray
    """(T, A, 4, 2) corners of the other road users and things before every tick, seen from above."""
    failure: str
    """Why the leaderboard stopped the route, as in the record's status; empty where the world did."""


def drive_route(agent_file: Path, configuration: str, world: World) -> RouteDrive:
    """Drive one route with an agent file; see ``drive``.

    Raises:
        RequestError: The file cannot be imported.
        TeachonceError: The agent asks for what a rehearsal does not have.
    """
    with agent_module(agent_file) as agent:
        return drive(agent, configuration, world)


def drive(
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
            check(mounted, instance.track)
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
        world.road,
        np.array(log.others) if log.others else np.empty((0, 0, 4, 2)),
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
            done = drive(module, configuration, world, check_sensors=number == 0)
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
        self.others: list[np.ndarray] = []


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
            data = world.sense()
            try:
                control = instance(data, world.tick * TICK_S)
                driven, plan = _values(control), _plan_of(instance)
            except Exception:  # noqa: BLE001, whatever the agent does
                traceback.print_exc()
                return AGENT_CRASHED
            log.poses.append(world.pose)
            log.others.append(world.others())
            log.controls.append(driven)
            log.plans.append(plan)
            world.apply(control)
    except TeachonceError:
        raise
    except Exception:  # noqa: BLE001, as in the leaderboard: all else is the simulator's fault
        traceback.print_exc()
        return SIMULATION_CRASHED
    return ""


def _values(control: Control) -> tuple[float, float, float]:
    values = float(control.throttle), float(control.steer), float(control.brake)
    if not all(map(math.isfinite, values)):
        raise ValueError(f"the agent's control is {control}")
    return values


def _plan_of(instance: Any) -> np.ndarray:
    answer = getattr(instance, "last_answer", None) or {}
    plan = np.full((TRAJECTORY_STEPS, 2), math.nan)
    plan[:] = answer.get("plan", plan)
    return plan

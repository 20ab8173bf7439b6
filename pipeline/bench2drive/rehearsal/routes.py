"""Routes of rehearsals as the leaderboard's XML (spec: Bench2Drive 5.3), and worlds by their routes."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree

from cache_schema.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from pipeline.bench2drive.rehearsal.world import RouteTask, World

    Open = Callable[[], World]
    """Draws or reads a world."""


def write_routes(path: Path, routes: Iterable[RouteTask]) -> None:
    """Write a file of routes: their numbers, towns, scenario types and nodes."""
    root = ElementTree.Element("routes")
    for route in routes:
        element = ElementTree.SubElement(root, "route", id=str(route.id), town=route.town)
        waypoints = ElementTree.SubElement(element, "waypoints")
        for position in route.positions.tolist():
            place = dict(zip("xyz", map(str, position), strict=True))
            ElementTree.SubElement(waypoints, "position", place)
        scenarios = ElementTree.SubElement(element, "scenarios")
        ElementTree.SubElement(scenarios, "scenario", name=f"{route.scenario}_1", type=route.scenario)
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(path, encoding="utf-8")


def read_route_numbers(path: Path) -> tuple[int, ...]:
    """Read which routes a file names.

    Raises:
        RequestError: It is no file of routes.
    """
    try:
        return tuple(int(route.attrib["id"]) for route in ElementTree.parse(path).getroot().iter("route"))
    except (OSError, ElementTree.ParseError, KeyError, ValueError) as error:
        raise RequestError(
            f"the routes {path} cannot be read: {error}",
            expected="the leaderboard's XML: routes with a number as their id",
            repair="give the file that was written with --write-routes, or a part of it",
        ) from error


def choose(worlds: Mapping[int, Open], numbers: Sequence[int]) -> dict[int, Open]:
    """Return the worlds of some routes, in the order of the routes.

    Raises:
        RequestError: A route is none of theirs.
    """
    missing = sorted(set(numbers) - worlds.keys())
    if missing:
        raise RequestError(
            f"there is no route {missing[0]} in this rehearsal",
            expected=f"routes of the clips or scenes that are rehearsed: {', '.join(map(str, worlds))}",
            repair="write their list with --write-routes",
        )
    return {number: worlds[number] for number in numbers}

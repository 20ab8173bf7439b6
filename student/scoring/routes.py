"""The routes that a score divides by: Bench2Drive's own lists, or a file of routes."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from cache_schema.errors import RequestError
from student.scoring import DEFAULT


class Route(NamedTuple):
    """One route of an evaluation."""

    id: str
    town: str
    scenario: str
    """Type of its first scenario."""


class RouteList(NamedTuple):
    """The routes of an evaluation, each once."""

    name: str
    routes: tuple[Route, ...]


def route_list(name: str = DEFAULT) -> RouteList:
    """Return a list of routes.

    Args:
        name: ``bench2drive220``, ``bench2drive-0.0.4`` (validation routes of version 0.0.4), ``dev10``, or
            the path of an XML file of routes as the leaderboard reads it.

    Raises:
        RequestError: There is no such list, or the file holds no list of routes.
    """
    if name in _packaged():
        return RouteList(name, _packaged()[name])
    if not name.endswith(".xml"):
        raise RequestError(
            f"there is no list of routes {name!r}",
            expected=f"{', '.join(_packaged())}, or an XML file of routes",
            repair="name one of these",
        )
    return RouteList(Path(name).name, _read(Path(name)))


@cache
def _packaged() -> dict[str, tuple[Route, ...]]:
    lists = json.loads(files("student.scoring").joinpath("route_lists.json").read_bytes())
    return {name: tuple(Route(*route) for route in routes) for name, routes in lists.items()}


def _read(path: Path) -> tuple[Route, ...]:
    try:
        root = ElementTree.fromstring(path.read_bytes())
        routes = tuple(map(_route, root.findall("route")))
        if not routes:
            raise ValueError("it holds no element <route>")
        ids = [route.id for route in routes]
        if twice := next((one for one in ids if ids.count(one) > 1), None):
            raise ValueError(f"route {twice} stands in it twice")
    except (OSError, ValueError, ElementTree.ParseError) as error:
        raise RequestError(
            f"{path} is no list of routes: {error}",
            expected='an XML file with <route id="..." town="..."> elements that hold a scenario, ids once',
            repair="name the file that the evaluation was run with",
        ) from error
    return routes


def _route(element: ElementTree.Element) -> Route:
    name, town = element.get("id"), element.get("town")
    scenario = element.find("scenarios/scenario")
    kind = None if scenario is None else scenario.get("type")
    if not name or not town or not kind:
        raise ValueError(
            f"a route (id {name}, town {town}) lacks its id, its town, or the type of a scenario"
        )
    return Route(name, town, kind)

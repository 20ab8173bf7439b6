"""Routes of a benchmark, one to a file: an evaluator process then drives one and ends.

Format: ``routes/route{id, town}`` with waypoints, scenarios and weathers, as Bench2Drive's files are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from cache_schema.errors import RequestError

if TYPE_CHECKING:
    from pathlib import Path

ROUTE_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
"""Ids become names of files."""


@dataclass(frozen=True)
class Route:
    """One route."""

    id: str
    town: str
    document: bytes
    """A file of routes that holds this one alone."""


def read_routes(path: Path) -> list[Route]:
    """Return the routes of a file, in its order.

    Raises:
        RequestError: It is no file of routes, holds none, or one twice.
    """
    try:
        found = list(ElementTree.fromstring(path.read_bytes()).iter("route"))
    except (OSError, ElementTree.ParseError) as error:
        raise _refused(path, f"cannot be read: {error}") from error
    routes = [_route(path, element) for element in found]
    if not routes:
        raise _refused(path, "holds no route")
    ids = [route.id for route in routes]
    if len({*ids}) < len(ids):
        twice = sorted({name for name in ids if ids.count(name) > 1})
        raise _refused(path, f"holds {', '.join(twice)} more than once")
    return routes


def _route(path: Path, element: ElementTree.Element) -> Route:
    name, town = element.get("id", ""), element.get("town", "")
    if not ROUTE_ID.fullmatch(name) or not town:
        raise _refused(path, f"holds a route with the id {name!r} and the town {town!r}")
    alone = ElementTree.Element("routes")
    alone.append(element)
    return Route(name, town, ElementTree.tostring(alone, encoding="utf-8", xml_declaration=True))


def _refused(path: Path, what: str) -> RequestError:
    return RequestError(
        f"{path} {what}",
        expected="routes of the leaderboard as XML: <routes><route id=... town=...>, each id once",
        repair="give a file such as leaderboard/data/bench2drive220.xml of Bench2Drive",
    )
